"""Triplets for the contrastive stage: a sentence, one that should be near it, some that should be far (section 4.2.1).

Rules follow from a task's problem, never from its name:

| problem | groups | anchors | positive | own negatives |
|---|---|---|---|---|
| classification, binary (one sentence) | the labels | every sentence | same group | other group |
| classification (pair) | the labels, for either sentence of a row | every sentence | same group | other group |
| regression | the lower and the upper half of the range | every sentence | same group | other group |
| binary (pair) | – | sentences of positive pairs | the other one of the pair | sentences of negative pairs only |

A *sentence* is a distinct text: one that stands in many rows is in as many groups as they say.  Its positive comes from
one of its groups (drawn among its rows), its negatives share none of them.  Paraphrases are what the positive pairs of
the binary tasks say, taken transitively and over all tasks; no negative, own or foreign, is a paraphrase of its anchor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qabert.errors import InputError, unknown
from qabert.tasks import Task

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

#: Draws before the sentences that are left are listed one by one, which only few anchors need.
DRAWS = 12


@dataclass(frozen=True)
class Triplets:
    """Frames of every task over one list of sentences.

    Args:
        sentences: Column `text`: every distinct text of all tasks, once, without whitespace around it.
        frames: By task, the columns `anchor`, `positive` (int64) and `negatives` (a fixed-length list of int64), all of
            them rows of `sentences`.  The own negatives come first, then one of each other task in the tasks' order.
        skipped: By task, sentences that should be anchors but have no positive, or no negative in some task.
    """

    sentences: datasets.Dataset
    frames: datasets.DatasetDict
    skipped: dict[str, int]


def build_triplets(
    tasks: Mapping[str, Task], rows: Mapping[str, datasets.Dataset], *, seed: int, own_negatives: int = 3
) -> Triplets:
    """Build one frame for each anchor of each task; the same for the same tasks, rows and seed.

    A regression's label of exactly the middle of the range belongs to the upper half.  The own negatives of a frame
    differ from one another, unless fewer than `own_negatives` sentences qualify: then all of them are used, repeatedly.
    A foreign negative that also stands in the anchor's task shares none of the anchor's groups there either.

    Args:
        tasks: The tasks by name.
        rows: One split of each, with the columns `text_a`, `text_b` and `label` (see `qabert.data.sources.load_task`).
        seed: Not negative; all that the draws depend on.
        own_negatives: Negatives of the anchor's own task in each frame, at least 1.

    Raises:
        InputError: A task has no rows, columns or labels to build from, or no sentence of it can be an anchor; the
            message names the task and what is missing.

    Example:
        >>> from qabert.data.sources import load_task
        >>> from qabert.tasks import SST
        >>> built = build_triplets({"sst": SST}, {"sst": load_task(SST, "demo").splits["train"]}, seed=0)
        >>> sorted(built.frames["sst"].column_names)
        ['anchor', 'negatives', 'positive']
    """
    import datasets

    if not tasks:
        raise InputError("no task is given to build triplets of")
    if own_negatives < 1:
        raise InputError(f"own_negatives is {own_negatives}; expected at least 1")
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    labels = {name: _labels(name, task, rows) for name, task in tasks.items()}
    sentences, columns = _sentences(tasks, rows)
    paraphrases = _paraphrases(tasks, columns, labels, len(sentences))
    members = {name: np.unique(np.concatenate(columns[name])) for name in tasks}
    frames, skipped = datasets.DatasetDict(), {}
    for number, (name, task) in enumerate(tasks.items()):
        rng = np.random.default_rng([seed, number])
        build = _from_pairs if _paraphrase_pairs(task) else _from_groups
        plan = build(name, task, columns[name], labels[name], len(sentences), rng)
        pools = [("its own task", plan.pool, own_negatives)]
        pools += [(f"the task '{other}'", members[other], 1) for other in tasks if other != name]
        parts, served = [], np.ones(len(plan.anchors), dtype=bool)
        for place, pool, count in pools:
            parts.append(_negatives(plan, pool, paraphrases, count, rng))
            served &= parts[-1][:, 0] >= 0
            if not served.any():
                raise InputError(
                    f"task '{name}': no anchor is left that has a negative from {place}: a sentence that shares none "
                    "of the anchor's labels and is no paraphrase of it"
                )
        frames[name] = _frames(plan.anchors[served], plan.positives[served], np.concatenate(parts, axis=1)[served])
        skipped[name] = plan.candidates - int(served.sum())
    return Triplets(datasets.Dataset.from_dict({"text": sentences}), frames, skipped)


def frame_texts(triplets: Triplets, task: str) -> datasets.Dataset:
    """A task's frames as text, to look at or to export: `anchor`, `positive` and `negatives` (a list) as strings.

    Raises:
        InputError: There are no frames of such a task.
    """
    import datasets

    if task not in triplets.frames:
        raise unknown("task", task, triplets.frames)
    texts = triplets.sentences.with_format("arrow")[:]["text"].combine_chunks()

    def lookup(batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        def read(indices: np.ndarray) -> list[str]:
            return texts.take(indices).to_pylist()

        width = batch["negatives"].shape[1]
        flat = read(batch["negatives"].reshape(-1))
        negatives = [flat[start : start + width] for start in range(0, len(flat), width)]
        return {"anchor": read(batch["anchor"]), "positive": read(batch["positive"]), "negatives": negatives}

    text = datasets.Value("string")
    width = triplets.frames[task].features["negatives"].length
    features = datasets.Features({"anchor": text, "positive": text, "negatives": datasets.List(text, length=width)})
    return triplets.frames[task].with_format("numpy").map(lookup, batched=True, features=features).with_format(None)


def _paraphrase_pairs(task: Task) -> bool:
    return task.problem == "binary" and task.pair


def _labels(name: str, task: Task, rows: Mapping[str, datasets.Dataset]) -> np.ndarray:
    """The checked labels of a task's rows, `(rows,)` float64."""
    import pyarrow as pa

    if name not in rows:
        raise InputError(f"task '{name}': no rows are given for it; there are rows for {', '.join(rows) or 'no task'}")
    for column in ("text_a", *(("text_b",) if task.pair else ()), "label"):
        if column not in rows[name].column_names:
            raise unknown("column", column, rows[name].column_names, f"task '{name}'")
    if not len(rows[name]):
        raise InputError(f"task '{name}': no rows to build triplets from")
    column = _arrow(rows[name], "label")
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"task '{name}', column 'label': expected numbers, got {column.type}")
    low, high = task.range or (0, len(task.labels) - 1)
    labels = np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)  # a missing one turns into NaN
    wrong = np.flatnonzero(~((labels >= low) & (labels <= high)))
    if len(wrong):
        found = "the label is missing" if np.isnan(labels[wrong[0]]) else f"label {labels[wrong[0]]:g}"
        raise InputError(f"task '{name}', row {wrong[0] + 1}: {found}; expected a number from {low:g} to {high:g}")
    return labels


def _arrow(rows: datasets.Dataset, column: str) -> pa.ChunkedArray:
    return rows.select_columns([column]).with_format("arrow")[:][column]


def _sentences(
    tasks: Mapping[str, Task], rows: Mapping[str, datasets.Dataset]
) -> tuple[pa.StringArray, dict[str, list[np.ndarray]]]:
    """All tasks' distinct texts, and for each task its one or two columns `(rows,)` as indices into them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = []
    for name, task in tasks.items():
        for column in ("text_a", "text_b") if task.pair else ("text_a",):
            texts = pc.utf8_trim_whitespace(_arrow(rows[name], column).cast(pa.string()))
            empty = pc.fill_null(pc.equal(texts, ""), True).to_numpy()
            if empty.any():
                raise InputError(f"task '{name}', row {np.argmax(empty) + 1}, column '{column}': expected text")
            columns.append(texts)
    encoded = pa.chunked_array([chunk for texts in columns for chunk in texts.chunks]).dictionary_encode()
    codes = np.concatenate([np.asarray(chunk.indices, dtype=np.int64) for chunk in encoded.chunks])
    split = iter(np.split(codes, np.cumsum([len(texts) for texts in columns])[:-1]))
    by_task = {name: [next(split) for _ in range(1 + task.pair)] for name, task in tasks.items()}
    return encoded.chunk(0).dictionary, by_task  # the chunks share one dictionary, in order of first appearance


def _paraphrases(
    tasks: Mapping[str, Task], columns: Mapping[str, list[np.ndarray]], labels: Mapping[str, np.ndarray], size: int
) -> np.ndarray:
    """A number for each sentence, `(sentences,)`, that it has in common with its paraphrases of all tasks."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    same = [np.stack(columns[name])[:, labels[name] == 1] for name, task in tasks.items() if _paraphrase_pairs(task)]
    edges = np.concatenate([np.empty((2, 0), dtype=np.int64), *same], axis=1)
    graph = coo_array((np.ones(edges.shape[1], dtype=bool), (edges[0], edges[1])), shape=(size, size))
    return connected_components(graph, directed=False)[1]


@dataclass(frozen=True)
class _Plan:
    """What one task's frames are drawn from.

    Args:
        anchors: Sentences that have a positive, `(anchors,)`.
        positives: Their positives, `(anchors,)`.
        candidates: Sentences that should be anchors, with or without a positive.
        pool: Sentences that own negatives come from.
        kinds: The kind of each sentence, `(sentences,)`: sentences of one kind stand in the same groups.  -1 for
            those in no group, as are those of other tasks.
        clashes: For each kind, the kinds that share a group with it.
    """

    anchors: np.ndarray
    positives: np.ndarray
    candidates: int
    pool: np.ndarray
    kinds: np.ndarray
    clashes: list[np.ndarray]


def _from_pairs(
    name: str, task: Task, columns: list[np.ndarray], labels: np.ndarray, size: int, rng: np.random.Generator
) -> _Plan:
    """Anchors and positives from positive pairs, negatives from sentences that stand in negative pairs only."""
    pairs = np.stack(columns)
    duplicates = pairs[:, labels == 1]
    in_duplicates = np.unique(duplicates)
    pool = np.setdiff1d(pairs[:, labels == 0], in_duplicates)
    edges = duplicates[:, duplicates[0] != duplicates[1]]
    if not edges.size:
        raise InputError(f"task '{name}': anchors need pairs of two different sentences labelled '{task.labels[1]}'")
    if not len(pool):
        raise InputError(
            f"task '{name}': negatives need sentences that stand only in pairs labelled '{task.labels[0]}'"
        )
    sources, targets = np.concatenate([edges, edges[::-1]], axis=1)
    anchors, chosen = _one_each(sources, rng)
    return _Plan(anchors, targets[chosen], len(in_duplicates), pool, np.full(size, -1), [])


def _from_groups(
    name: str, task: Task, columns: list[np.ndarray], labels: np.ndarray, size: int, rng: np.random.Generator
) -> _Plan:
    """Every sentence an anchor, its positive a sentence of one of its groups."""
    groups = labels.astype(np.int64) if task.range is None else (labels >= sum(task.range) / 2).astype(np.int64)
    if (groups == groups[0]).all():
        if task.range is None:
            raise InputError(f"task '{name}': every row has the label '{task.labels[groups[0]]}'; triplets need two")
        half, (low, high) = ("lower", "upper")[groups[0]], task.range
        raise InputError(f"task '{name}': every label is in the {half} half of {low:g} to {high:g}; triplets need both")
    sentences = np.concatenate(columns)
    groups = np.tile(groups, len(columns))
    count = int(groups.max()) + 1
    keys = np.unique(groups * size + sentences)  # memberships, by group and then by sentence
    sizes = np.bincount(keys // size, minlength=count)
    starts = np.cumsum(sizes) - sizes

    usable = np.flatnonzero(sizes[groups] > 1)  # in a group of its own a sentence finds no positive
    if not len(usable):
        raise InputError(f"task '{name}': no label has two different sentences, so no anchor has a positive")
    anchors, chosen = _one_each(sentences[usable], rng)
    drawn = groups[usable[chosen]]
    own = np.searchsorted(keys, drawn * size + anchors) - starts[drawn]
    other = rng.integers(0, sizes[drawn] - 1)
    other += other >= own  # any place in the group but the anchor's
    positives = keys[starts[drawn] + other] % size

    pool = np.unique(sentences)
    kinds, clashes = _kinds(keys % size, keys // size, size)
    return _Plan(anchors, positives, len(pool), pool, kinds, clashes)


def _one_each(sources: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each distinct value of `sources`, ascending, and the place of one of its occurrences, drawn."""
    order = np.argsort(sources, kind="stable")
    values, starts, counts = np.unique(sources[order], return_index=True, return_counts=True)
    return values, order[starts + rng.integers(0, counts)]


def _kinds(sentences: np.ndarray, groups: np.ndarray, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Kinds and clashes (see `_Plan`) from distinct memberships, ordered by group."""
    from scipy.sparse import csr_array

    order = np.argsort(sentences, kind="stable")
    sentences, groups = sentences[order], groups[order]
    _, starts, counts = np.unique(sentences, return_index=True, return_counts=True)
    rank = np.arange(len(sentences)) - np.repeat(starts, counts)
    kinds, known = np.full(size, -1), 0
    # Group after group refines the kinds: few sentences stand in several, so all rounds but the first are short.
    for depth in range(counts.max()):
        at = np.flatnonzero(rank == depth)
        distinct, kind = np.unique((kinds[sentences[at]] + 1) * (groups.max() + 1) + groups[at], return_inverse=True)
        kinds[sentences[at]] = known + kind
        known += len(distinct)
    used, first = np.unique(kinds[sentences[starts]], return_index=True)
    kinds[sentences[starts]] = np.searchsorted(used, kinds[sentences[starts]])
    rows = np.repeat(np.arange(len(used)), counts[first])
    places = np.concatenate([np.arange(starts[one], starts[one] + counts[one]) for one in first])
    inside = csr_array((np.ones(len(rows), dtype=np.int32), (rows, groups[places])))
    shared = (inside @ inside.T).tocsr()
    return kinds, [np.sort(one) for one in np.split(shared.indices, shared.indptr[1:-1])]


def _negatives(
    plan: _Plan, pool: np.ndarray, paraphrases: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """For each anchor `count` sentences of the pool, `(anchors, count)`, -1 for an anchor that has none.

    Every choice of different sentences among those that neither clash with the anchor nor paraphrase it is as likely.
    Anchors of one kind are drawn for together: what clashes are ranges of the pool, ordered by kind, and are jumped
    over.  Paraphrases are few and are drawn again.
    """
    result = np.full((len(plan.anchors), count), -1)
    pool = pool[np.argsort(plan.kinds[pool], kind="stable")]
    bounds = np.searchsorted(plan.kinds[pool], np.arange(len(plan.clashes) + 1))
    by_kind = np.argsort(plan.kinds[plan.anchors], kind="stable")
    kinds, firsts = np.unique(plan.kinds[plan.anchors][by_kind], return_index=True)
    for kind, todo in zip(kinds, np.split(by_kind, firsts[1:]), strict=True):
        clashes = plan.clashes[kind] if kind >= 0 else np.empty(0, dtype=np.int64)
        lengths = bounds[clashes + 1] - bounds[clashes]
        skipped = np.concatenate([[0], np.cumsum(lengths)])
        free = bounds[clashes] - skipped[:-1]  # places before each range that may be drawn
        room = len(pool) - int(skipped[-1])

        def sentences(places: np.ndarray, free=free, skipped=skipped) -> np.ndarray:
            return pool[places + skipped[np.searchsorted(free, places, side="right")]]

        for _ in range(DRAWS if room else 0):
            result[todo] = sentences(_distinct(len(todo), count, room, rng))
            again = (paraphrases[result[todo]] == paraphrases[plan.anchors[todo], None]).any(axis=1)
            todo = todo[again]
        # Those who are left have many paraphrases in the pool: list what remains, once for all of a circle.
        for circle in np.unique(paraphrases[plan.anchors[todo]]):
            left = todo[paraphrases[plan.anchors[todo]] == circle]
            places = sentences(np.arange(room))
            places = places[paraphrases[places] != circle]
            result[left] = places[_distinct(len(left), count, len(places), rng)] if len(places) else -1
    return result


def _distinct(rows: int, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers below `size`, `(rows, count)`, different within a row as far as there are enough of them."""
    drawn = np.empty((rows, 0), dtype=np.int64)
    for taken in range(min(count, size)):
        one = rng.integers(0, size - taken, rows)
        for earlier in np.sort(drawn, axis=1).T:
            one += one >= earlier
        drawn = np.concatenate([drawn, one[:, None]], axis=1)
    return drawn[:, np.arange(count) % drawn.shape[1]]


def _frames(anchors: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> datasets.Dataset:
    import datasets
    import pyarrow as pa

    width, index = negatives.shape[1], datasets.Value("int64")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(negatives.reshape(-1)), width)
    features = datasets.Features({"anchor": index, "positive": index, "negatives": datasets.List(index, length=width)})
    table = pa.table({"anchor": anchors, "positive": positives, "negatives": lists}, schema=features.arrow_schema)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))
