"""What the paper reports: the only place outside `tasks.py` that names its tasks."""

from __future__ import annotations

#: Table 2 by model (worst first, as the paper has them), task and metric.
SCORES: dict[str, dict[str, dict[str, float]]] = {
    "baseline": {
        "sst": {"accuracy": 0.440},
        "sts": {"pearson": 0.326, "spearman": 0.310},
        "quora": {"accuracy": 0.765, "f1": 0.709},
    },
    "triplet": {
        "sst": {"accuracy": 0.481},
        "sts": {"pearson": 0.453, "spearman": 0.429},
        "quora": {"accuracy": 0.771, "f1": 0.727},
    },
    "qa": {
        "sst": {"accuracy": 0.495},
        "sts": {"pearson": 0.843, "spearman": 0.834},
        "quora": {"accuracy": 0.868, "f1": 0.836},
    },
}
SCORES_NOTE = (
    "The paper's accuracies and Pearson correlations of its Q&ABERT are of the test split, F1 and Spearman of dev; "
    "ours are all of dev. Its encoder is BERT-base."
)
#: Table 1: question and context by task.
PROMPTS: dict[str, tuple[str, str]] = {
    "sst": ("Is this review positive or negative?", "Dramas like this make it human."),
    "sts": (
        "Is the first sentence semantically equivalent to the second sentence?",
        "First sentence: A kid is talking in class. Second sentence: A girl is going to class.",
    ),
    "quora": (
        "Does the first question paraphrase the second question?",
        "First sentence: How can I master myself in geometry? Second sentence: How can I master geometry for the "
        "CAT-14?",
    ),
}
#: Table 3: label shares by task and split, in the order of the labels' numbers.
SHARES: dict[str, dict[str, tuple[float, ...]]] = {
    "sst": {"train": (0.127, 0.260, 0.190, 0.272, 0.151), "dev": (0.126, 0.262, 0.208, 0.253, 0.150)},
    "quora": {"train": (0.631, 0.369), "dev": (0.625, 0.375)},
}
SHARES_NOTES = {
    "quora": (
        "The paper's Quora row has its two headings swapped: it calls 63.1 % paraphrases, but 37 % of the pairs are "
        "duplicates. Its shares stand here under the labels they belong to."
    )
}
#: What has to be known of an encoder to read its scores, by the name it has in `encoder:`.
ENCODER_NOTES = {
    "minilm": "MiniLM's own training saw Quora's duplicate pairs, so its scores there are of no unseen kind of data.",
}
