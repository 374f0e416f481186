"""Which words an answer comes from: attention rollout and integrated gradients."""
