"""A local web page that answers sentences: every task's answer, and which words it comes from."""
