"""The report of a reproduction: what was run, the paper's tables beside ours, differences, figures, examples."""
