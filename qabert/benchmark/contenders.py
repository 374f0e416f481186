"""Who is measured at what.  Imports nothing heavy."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from qabert.errors import InputError, unknown

PARTS = ("train", "evaluate", "predict")


@dataclass(frozen=True)
class Contender:
    """One way to do the same work.

    Args:
        what: What it is, for the table's notes.
        parts: What of `PARTS` it is measured at.
        package: The package without which it can't run, if any but this package's own requirements.
    """

    what: str
    parts: tuple[str, ...] = ("train", "evaluate")
    package: str | None = None


_POOLED = "the three tasks' rows as one regression on labels scaled to 0..1"
CONTENDERS: dict[str, Contender] = {
    "limit": Contender(
        "bare PyTorch loops over batches padded before the clock starts, each of rows of like length: first token's "
        "state, one Linear for each task; nothing is tokenised, drawn, collated, logged or checked",
        PARTS,
    ),
    "qabert": Contender(
        "scripts/train.py as it is (one Linear as head): rows drawn by weight with replacement, so its tokens differ "
        "a little; losses by task; its own scores; prediction by Predictor.predict",
        PARTS,
    ),
    "trainer-128": Contender(f"transformers.Trainer, every row padded to max_length; {_POOLED}"),
    "trainer-dynamic": Contender(f"transformers.Trainer, padded by DataCollatorWithPadding; {_POOLED}"),
    "trainer-grouped": Contender(
        f"transformers.Trainer with train_sampling_strategy=group_by_length, lengths given; {_POOLED}"
    ),
    "sentence-transformers": Contender(
        "CrossEncoderTrainer, a data set and a binary cross entropy on scaled labels for each task, its samplers' "
        "defaults; CrossEncoder.predict for evaluation and prediction",
        PARTS,
        "sentence_transformers",
    ),
    "tasknet": Contender(
        "tasknet.Model_Trainer, a regression on scaled labels for each task; the metric that it loads from the hub "
        "when it is imported, and doesn't use here, is left out",
        ("train",),
        "tasknet",
    ),
    "pipeline": Contender("transformers' text-classification pipeline with batch_size as given", ("predict",)),
    "pipeline-1": Contender("the same with its default batch_size=1, timed on a tenth of the sentences", ("predict",)),
}


def chosen(names: Sequence[str], parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names and parts, checked.  No names: all of them.

    Raises:
        InputError: There is no such contender or part, one is named twice, or none of them does any of the parts.
    """
    for kind, given, known in (("part", parts, PARTS), ("contender", names, CONTENDERS)):
        for name in given:
            if name not in known:
                raise unknown(kind, name, known)
            if given.count(name) > 1:
                raise InputError(f"{kind} '{name}' is named twice")
    able = [name for name in names or CONTENDERS if set(CONTENDERS[name].parts) & set(parts)]
    if not able:
        raise InputError(f"none of the contenders {', '.join(names)} does {' or '.join(parts)}")
    return able, list(parts)


def missing(name: str) -> str | None:
    """The package that a contender lacks, or None."""
    package = CONTENDERS[name].package
    return package if package is not None and importlib.util.find_spec(package) is None else None
