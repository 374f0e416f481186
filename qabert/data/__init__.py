"""Where rows come from and what they look like: sources, prompts, triplets, sampling, collator."""
