"""Triplets: every rule on random tasks against a slow reading of it, plus the edges by hand."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from qabert.data.sources import load_data
from qabert.data.triplets import build_triplets, frame_texts
from qabert.errors import InputError
from qabert.tasks import PAPER_TASKS, Task

LABELS = ("one", "two", "three", "four")
PAIR = {"text_a": "sentence1", "text_b": "sentence2"}


def make_task(name, problem, pair=False, **fields):
    if problem == "classification":
        fields = {"labels": LABELS} | fields
    if problem == "regression":
        fields = {"range": (0.0, 5.0)} | fields
    return Task(name=name, problem=problem, question="Is it?", columns=PAIR if pair else {}, **fields)


def make_rows(task, rows):
    """`rows` are `(text_a, label)` or `(text_a, text_b, label)`; the columns are those of `load_task`."""
    label = datasets.Value("float64" if task.problem == "regression" else "int64")
    text = datasets.Value("string")
    return datasets.Dataset.from_dict(
        {
            "text_a": [row[0] for row in rows],
            "text_b": [row[1] if task.pair else None for row in rows],
            "label": [row[-1] for row in rows],
            "id": [str(number) for number in range(len(rows))],
        },
        features=datasets.Features({"text_a": text, "text_b": text, "label": label, "id": text}),
    )


def build(declared, seed=0, **options):
    """Triplets of `{name: (problem, pair, rows)}`."""
    tasks = {name: make_task(name, problem, pair) for name, (problem, pair, _) in declared.items()}
    rows = {name: make_rows(task, declared[name][2]) for name, task in tasks.items()}
    return build_triplets(tasks, rows, seed=seed, **options)


def read(triplets, name):
    """A task's frames as tuples `(anchor, positive, negatives)` of texts."""
    texts = triplets.sentences["text"][:]
    columns = triplets.frames[name][:]
    return [
        (texts[a], texts[p], [texts[n] for n in negatives])
        for a, p, negatives in zip(columns["anchor"], columns["positive"], columns["negatives"], strict=True)
    ]


# --- the rules, read slowly ------------------------------------------------------------------------------------------


def texts_of(row):
    return [text.strip() for text in row[:-1]]


def paraphrase_circles(declared):
    """Each text with the set of texts that the positive pairs connect it with, itself included."""
    circle = {text: {text} for _, _, rows in declared.values() for row in rows for text in texts_of(row)}
    for problem, pair, rows in declared.values():
        for row in rows:
            if problem == "binary" and pair and row[-1] == 1:
                a, b = texts_of(row)
                joined = circle[a] | circle[b]
                for text in joined:
                    circle[text] = joined
    return circle


def allowed(declared, name):
    """For each sentence that should be an anchor: its possible positives, own negatives, and foreign ones by task."""
    circle = paraphrase_circles(declared)
    problem, pair, rows = declared[name]
    every = {other: {t for row in found for t in texts_of(row)} for other, (_, _, found) in declared.items()}
    groups = {text: set() for text in every[name]}
    positives = {text: set() for text in every[name]}
    if problem == "binary" and pair:
        positives = {text: set() for row in rows if row[-1] == 1 for text in texts_of(row)}
        for row in rows:
            if row[-1] == 1:
                a, b = texts_of(row)
                positives[a].add(b)
                positives[b].add(a)
        own = {text for row in rows if row[-1] == 0 for text in texts_of(row)} - set(positives)
    else:
        for row in rows:
            for text in texts_of(row):
                groups[text].add(row[-1] if problem != "regression" else row[-1] >= 2.5)
        for text in every[name]:
            positives[text] = {other for other in every[name] if groups[other] & groups[text]}
        own = every[name]
    result = {}
    for anchor in positives:

        def far(pool, anchor=anchor):
            shared = {text for text in pool if groups.get(text, set()) & groups[anchor]}
            return pool - shared - circle[anchor]

        foreign = {other: far(pool) for other, pool in every.items() if other != name}
        result[anchor] = (positives[anchor] - {anchor}, far(own), foreign)
    return groups, result


# --- random tasks ----------------------------------------------------------------------------------------------------

KINDS = [("classification", False), ("classification", True), ("binary", False), ("binary", True)]
KINDS += [("regression", False), ("regression", True)]
SPACES = ["", "", "", " ", "\t\n", "\u3000"]


@st.composite
def declared_tasks(draw):
    """1 to 3 tasks of random problems over few texts: duplicates, shared and contradictory ones, chains, spaces."""
    declared = {}
    for number in range(draw(st.integers(1, 3))):
        problem, pair = draw(st.sampled_from(KINDS))
        first, spread, count = (draw(st.sampled_from(of)) for of in ([0, 6, 12], [4, 8, 12, 20], [6, 12, 18, 24]))
        rng = random.Random(draw(st.integers(0, 2**32)))  # rows drawn one by one come out too much alike
        labels = {
            "classification": range(draw(st.integers(2, 4))),
            "binary": [0, 0, 1],
            "regression": [0.0, 1.3, 2.49, 2.5, 2.51, 5.0],
        }[problem]
        rows = []
        for _ in range(count):
            texts = [
                f"{rng.choice(SPACES)}t{first + rng.randrange(spread)}{rng.choice(SPACES)}" for _ in range(1 + pair)
            ]
            rows.append((*texts, rng.choice(labels)))
        declared[f"task{number}"] = (problem, pair, rows)
    return declared


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(declared=declared_tasks(), seed=st.integers(0, 2**32), own_negatives=st.integers(1, 4))
def test_every_rule_holds_on_random_tasks(declared, seed, own_negatives):
    """Frames are allowed ones, of every anchor that has any; otherwise the error names a task that has no anchor."""
    rules = {name: allowed(declared, name) for name in declared}
    served = {
        name: {a for a, (near, far, foreign) in anchors.items() if near and far and all(foreign.values())}
        for name, (_, anchors) in rules.items()
    }
    if not all(served.values()):
        event("no anchor")
        with pytest.raises(InputError) as error:
            build(declared, seed, own_negatives=own_negatives)
        named = re.match(r"task '(\w+)'", str(error.value))
        assert named and not served[named[1]]
        return
    event("built")
    triplets = build(declared, seed, own_negatives=own_negatives)
    assert sorted(triplets.sentences["text"]) == sorted(
        {t for _, _, r in declared.values() for x in r for t in texts_of(x)}
    )
    for name in declared:
        groups, anchors = rules[name]
        frames = read(triplets, name)
        assert [frame[0] for frame in frames] == sorted(served[name], key=triplets.sentences["text"][:].index)
        assert triplets.skipped[name] == len(anchors) - len(served[name])
        for anchor, positive, negatives in frames:
            near, far, foreign = anchors[anchor]
            own, rest = negatives[:own_negatives], negatives[own_negatives:]
            assert positive in near and positive != anchor
            assert set(own) <= far and len(set(own)) == min(own_negatives, len(far))
            assert len(rest) == len(declared) - 1
            assert all(text in pool for text, pool in zip(rest, foreign.values(), strict=True))
            assert not {anchor, positive} & set(negatives)
            assert not any(groups.get(text, set()) & groups.get(anchor, set()) for text in negatives)


@settings(max_examples=15, deadline=None)
@given(declared=declared_tasks(), seed=st.integers(0, 2**32))
def test_same_seed_same_frames(declared, seed):
    """Nothing but tasks, rows and seed decides, and how Arrow cuts the rows into chunks is none of them."""
    tasks = {name: make_task(name, problem, pair) for name, (problem, pair, _) in declared.items()}
    rows = {name: make_rows(task, declared[name][2]) for name, task in tasks.items()}
    cut = {
        name: datasets.concatenate_datasets([found.select(range(1)), found.select(range(1, len(found)))])
        for name, found in rows.items()
    }
    try:
        first, second = build_triplets(tasks, rows, seed=seed), build_triplets(tasks, cut, seed=seed)
    except InputError:
        return
    assert first.sentences[:] == second.sentences[:]
    assert first.skipped == second.skipped
    assert all(first.frames[name][:] == second.frames[name][:] for name in tasks)


# --- the paper's tasks -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_rows():
    return {name: data.splits["train"] for name, data in load_data(PAPER_TASKS, "demo", ("train",)).items()}


def test_paper_frames(demo_rows):
    triplets = build_triplets(PAPER_TASKS, demo_rows, seed=0)
    index, texts = datasets.Value("int64"), triplets.sentences["text"][:]
    assert list(triplets.frames) == ["sst", "sts", "quora"]
    assert triplets.sentences.features == {"text": datasets.Value("string")}
    for frames in triplets.frames.values():
        assert frames.features == {"anchor": index, "positive": index, "negatives": datasets.List(index, length=5)}
        used = np.column_stack([frames["anchor"], frames["positive"], frames["negatives"]])
        assert used.min() >= 0 and used.max() < len(texts)
    members = {
        name: set(rows["text_a"]) | (set(rows["text_b"]) if PAPER_TASKS[name].pair else set())
        for name, rows in demo_rows.items()
    }
    for name in PAPER_TASKS:
        order = [name] * 3 + [other for other in PAPER_TASKS if other != name]
        for anchor, positive, negatives in read(triplets, name):
            assert {anchor, positive} <= members[name]
            assert all(text in members[task] for text, task in zip(negatives, order, strict=True))
    # sst and sts: every sentence is an anchor once; quora: those of duplicate pairs.
    assert len(triplets.frames["sst"]) + triplets.skipped["sst"] == len(members["sst"])
    assert len(triplets.frames["sts"]) + triplets.skipped["sts"] == len(members["sts"])
    duplicates = {text for row in demo_rows["quora"] if row["label"] == 1 for text in (row["text_a"], row["text_b"])}
    assert {frame[0] for frame in read(triplets, "quora")} == duplicates


def test_other_seed_other_frames(demo_rows):
    first, same, other = (build_triplets(PAPER_TASKS, demo_rows, seed=seed) for seed in (1, 1, 2))
    for name in PAPER_TASKS:
        assert first.frames[name][:] == same.frames[name][:]
        assert first.frames[name]["anchor"][:] == other.frames[name]["anchor"][:]
        for column in ("positive", "negatives"):
            if name != "quora" or column == "negatives":  # most paraphrases have but one partner
                assert first.frames[name][column][:] != other.frames[name][column][:]


def test_selected_and_shuffled_rows_are_followed(demo_rows):
    """Rows with an indices mapping, as `select` and `shuffle` leave, mean the chosen rows."""
    chosen = {name: rows.shuffle(seed=3).select(range(60)) for name, rows in demo_rows.items()}
    flat = {name: rows.flatten_indices() for name, rows in chosen.items()}
    first, second = (build_triplets(PAPER_TASKS, rows, seed=0) for rows in (chosen, flat))
    assert first.sentences[:] == second.sentences[:]
    assert first.frames["quora"][:] == second.frames["quora"][:]


# --- edges by hand ---------------------------------------------------------------------------------------------------

TWO_LABELS = [("a", 0), ("b", 0), ("c", 1), ("d", 1)]


def test_the_middle_of_the_range_is_in_the_upper_half():
    task = make_task("t", "regression", range=(-1.0, 3.0))
    rows = make_rows(task, [("low", 0.99), ("lower", -1.0), ("middle", 1.0), ("high", 3.0)])
    triplets = build_triplets({"t": task}, {"t": rows}, seed=0, own_negatives=2)
    assert {(a, p, *sorted(n)) for a, p, n in read(triplets, "t")} == {
        ("low", "lower", "high", "middle"),
        ("lower", "low", "high", "middle"),
        ("middle", "high", "low", "lower"),
        ("high", "middle", "low", "lower"),
    }


def test_paraphrases_are_transitive_and_cross_tasks():
    """a~b~c by the pairs of one task: for the labels of another, c is no negative of a, though its label differs."""
    pairs = [("a", "b", 1), (" b", "c ", 1), ("x", "y", 0)]
    declared = {"labels": ("classification", False, [*TWO_LABELS, ("e", 0)]), "pairs": ("binary", True, pairs)}
    own = {anchor: set() for anchor in "abcde"}
    foreign = {anchor: set() for anchor in "abcde"}
    for seed in range(20):
        triplets = build(declared, seed)
        assert triplets.skipped == {"labels": 0, "pairs": 0}
        for anchor, _, negatives in read(triplets, "labels"):
            own[anchor] |= set(negatives[:3])
            foreign[anchor] |= set(negatives[3:])
    assert own == {"a": {"d"}, "b": {"d"}, "c": {"e"}, "d": set("abe"), "e": set("cd")}
    assert foreign == {anchor: set("xy") for anchor in "abc"} | {"d": set("abcxy") - {"c"}, "e": set("cxy")}


def test_a_pair_of_equal_texts_makes_neither_anchor_nor_negative():
    pairs = [("a", "a ", 1), ("b", "c", 1), ("a", "x", 0), ("y", "z", 0)]
    for seed in range(10):
        triplets = build({"pairs": ("binary", True, pairs)}, seed)
        assert {frame[:2] for frame in read(triplets, "pairs")} == {("b", "c"), ("c", "b")}
        assert {text for frame in read(triplets, "pairs") for text in frame[2]} == {"x", "y", "z"}
        assert triplets.skipped == {"pairs": 1}


def test_positive_is_the_partner_in_a_pair_not_in_a_chain():
    pairs = [("a", "b", 1), ("b", "c", 1), ("x", "y", 0)]
    seen = {frame[:2] for seed in range(20) for frame in read(build({"p": ("binary", True, pairs)}, seed), "p")}
    assert seen == {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")}


def test_one_label_is_drawn_among_the_rows_of_a_sentence():
    """In nine rows of one label and one of another: the positive follows the rows, the negatives avoid both."""
    rows = [("a", 0)] * 9 + [("a", 1), ("b", 0), ("c", 1), ("d", 2), ("e", 2)]
    near = Counter()
    for seed in range(40):
        frame = next(
            frame for frame in read(build({"t": ("classification", False, rows)}, seed), "t") if frame[0] == "a"
        )
        near[frame[1]] += 1
        assert set(frame[2]) == {"d", "e"}
    assert set(near) == {"b", "c"} and 1 <= near["c"] <= 12


def test_a_label_without_another_sentence_is_not_drawn():
    """`a` is alone in its second label: an anchor still, with a positive of its first."""
    rows = [("a", 0), ("a", 1), ("b", 0), ("c", 2), ("d", 2), ("e", 3)]
    for seed in range(20):
        triplets = build({"t": ("classification", False, rows)}, seed)
        assert ("a", "b") in {frame[:2] for frame in read(triplets, "t")}
        assert triplets.skipped == {"t": 1}  # e


def test_sentences_of_both_halves_are_left_out_and_counted():
    rows = [("both", "a", 1.0), ("both", "b", 4.0), ("c", "d", 0.0), ("e", "f", 5.0)]
    triplets = build({"t": ("regression", True, rows)})
    assert triplets.skipped == {"t": 1}
    assert "both" not in {text for frame in read(triplets, "t") for text in (frame[0], *frame[2])}


def test_a_foreign_negative_shares_no_label_where_it_stands_in_both_tasks():
    declared = {
        "one": ("classification", False, TWO_LABELS),
        "two": ("classification", False, [("a", 2), ("b", 2), ("z", 3), ("y", 3)]),
    }
    for seed in range(30):
        for anchor, _, negatives in read(build(declared, seed), "one"):
            assert negatives[-1] in {"a": "zy", "b": "zy", "c": "abzy", "d": "abzy"}[anchor]


def test_negatives_repeat_only_where_there_are_too_few():
    frames = read(build({"t": ("classification", False, TWO_LABELS)}, own_negatives=5), "t")
    assert all(sorted(Counter(far).values()) == [2, 3] for _, _, far in frames)
    assert all(
        len(set(far)) == 2 for _, _, far in read(build({"t": ("binary", False, TWO_LABELS)}, own_negatives=2), "t")
    )


def test_draws_are_even():
    """Each sentence that qualifies is as likely, in every place, however many sentences its label has."""
    rows = [(f"{label} {number}", label) for label, size in enumerate((1500, 100, 10)) for number in range(size)]
    triplets = build({"t": ("classification", False, rows)})
    frames = [frame for frame in read(triplets, "t") if frame[0].startswith("0")]
    for place in range(3):
        counts = Counter(far[place] for _, _, far in frames)
        assert len(counts) == 110 and min(counts.values()) > 1 and max(counts.values()) < 35  # 13.6 expected
    positives = Counter(near for _, near, _ in frames)
    assert max(positives.values()) < 10 and 850 < len(positives) < 1050  # 1 expected; 1 - 1/e of all are drawn


def test_many_labels_and_many_labels_of_one_sentence():
    rng = np.random.default_rng(0)
    task = make_task("t", "classification", labels=tuple(f"label {number}" for number in range(200)))
    rows = [(f"t{rng.integers(900)}", int(rng.integers(200))) for _ in range(2000)]
    rows += [("everywhere", label) for label in range(150)]
    groups: dict[str, set[int]] = {}
    for text, label in rows:
        groups.setdefault(text, set()).add(label)
    frames = read(build_triplets({"t": task}, {"t": make_rows(task, rows)}, seed=0), "t")
    assert len(frames) == len(groups)
    for anchor, positive, negatives in frames:
        assert groups[anchor] & groups[positive] and anchor != positive
        assert not any(groups[anchor] & groups[text] for text in negatives) and len(set(negatives)) == 3


@pytest.mark.timeout(30)
def test_time_does_not_grow_with_a_giant_circle_of_paraphrases():
    """30,000 anchors, nearly all paraphrases of one another: what one of them may not have is worked out once."""
    texts = [f"t{number}" for number in range(30_000)]
    chain = [(a, b, 1) for a, b in pairwise(texts)] + [("x", "y", 0)]
    labels = [(text, number % 2) for number, text in enumerate([*texts, "p", "q", "r", "s"])]
    declared = {"labels": ("binary", False, labels), "pairs": ("binary", True, chain)}
    triplets = build(declared)
    assert triplets.skipped == {"labels": 0, "pairs": 0}
    far = {text for anchor, _, negatives in read(triplets, "labels") if anchor.startswith("t") for text in negatives}
    assert far == set("pqrsxy")


@pytest.mark.timeout(30)
def test_time_does_not_grow_with_the_square_of_the_sentences():
    """100,000 sentences without paraphrases take a second or so; a list of what is left for each would take minutes."""
    rows = [(f"t{number}", number % 2) for number in range(100_000)]
    assert build({"t": ("binary", False, rows)}).skipped == {"t": 0}


def test_foreign_negatives_are_one_of_each_other_task():
    declared = {f"task{number}": ("binary", False, [(f"{number}{t}", y) for t, y in TWO_LABELS]) for number in range(4)}
    for number in range(4):
        for _, _, negatives in read(build(declared), f"task{number}"):
            assert [text[0] for text in negatives[3:]] == [other for other in "0123" if other != str(number)]
    assert all(len(far) == 3 for _, _, far in read(build({"task0": declared["task0"]}), "task0"))


# --- text ------------------------------------------------------------------------------------------------------------


def test_frame_texts():
    """Every text comes back as it was, whatever it holds."""
    odd = ['<b>"&"</b>', "👩‍👩‍👧 é e\u0301", "שלום \u202eאב", "a\r\nb\x00,\t'"]
    rows = [(text, number % 2) for number, text in enumerate(odd)]
    triplets = build({"t": ("binary", False, rows)}, own_negatives=2)
    texts = frame_texts(triplets, "t")
    string = datasets.Value("string")
    assert texts.features == {"anchor": string, "positive": string, "negatives": datasets.List(string, length=2)}
    assert [(row["anchor"], row["positive"], row["negatives"]) for row in texts] == read(triplets, "t")
    assert set(texts["anchor"]) == set(odd)


def test_frame_texts_of_more_than_a_batch():
    rows = [(f"t{number}", number % 3) for number in range(2500)]
    triplets = build({"t": ("classification", False, rows)})
    texts = frame_texts(triplets, "t")
    assert [(row["anchor"], row["positive"], row["negatives"]) for row in texts] == read(triplets, "t")


def test_frame_texts_of_an_unknown_task():
    triplets = build({"movies": ("binary", False, TWO_LABELS)})
    with pytest.raises(InputError, match=r"unknown task 'movie' .did you mean 'movies'"):
        frame_texts(triplets, "movie")


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "pair", "rows", "message"),
    [
        ("classification", False, [("a", 1), ("b", 1)], "task 't': every row has the label 'two'"),
        ("binary", False, [("a", 0), ("b", 0)], "task 't': every row has the label 'no'"),
        ("regression", True, [("a", "b", 0.0), ("c", "d", 2.4)], "every label is in the lower half of 0 to 5"),
        ("regression", False, [("a", 2.5), ("b", 5.0)], "task 't': every label is in the upper half of 0 to 5"),
        ("classification", False, [("a", 0), ("b", 1), ("c", 2)], "task 't': no label has two different sentences"),
        ("classification", False, [("a", 0), ("b", 0), ("a", 1), ("b", 1)], "task 't': no anchor .* from its own task"),
        ("binary", True, [("a", "b", 0), ("c", "d", 0)], "task 't': anchors need pairs .* labelled 'yes'"),
        ("binary", True, [("a", "a ", 1), ("c", "d", 0)], "task 't': anchors need pairs of two different sentences"),
        ("binary", True, [("a", "b", 1), ("c", "d", 1)], "task 't': negatives need sentences .* labelled 'no'"),
        ("binary", True, [("a", "b", 1), ("b", "a", 0)], "task 't': negatives need sentences that stand only"),
        ("binary", False, [], "task 't': no rows"),
        ("binary", False, [("a", 0), ("b", None)], "task 't', row 2: the label is missing; expected a number"),
        ("regression", False, [("a", 0.0), ("b", 5.5)], "task 't', row 2: label 5.5; expected a number from 0 to 5"),
        ("regression", False, [("a", float("nan")), ("b", 5)], "task 't', row 1: the label is missing"),
        ("classification", False, [("a", -1), ("b", 4)], "task 't', row 1: label -1; expected a number from 0 to 3"),
        ("binary", False, [(" \t", 0), ("b", 1)], "task 't', row 1, column 'text_a': expected text"),
        ("binary", True, [("a", "b", 0), ("b", None, 1)], "task 't', row 2, column 'text_b': expected text"),
    ],
)  # fmt: skip
def test_a_pool_that_is_empty_or_a_row_that_is_wrong(problem, pair, rows, message):
    with pytest.raises(InputError, match=message):
        build({"t": (problem, pair, rows)})


def test_no_foreign_negative_at_all():
    """The other task has nothing but the anchors' own paraphrases."""
    declared = {
        "near": ("binary", True, [("a", "b", 1), ("x", "y", 0)]),
        "same": ("binary", False, [("a", 0), ("b", 1)]),
    }
    with pytest.raises(InputError, match=r"task 'near': no anchor .* from the task 'same'"):
        build(declared)


def test_missing_rows_and_columns():
    with pytest.raises(InputError, match="no task is given"):
        build({})
    task = make_task("t", "binary")
    rows = make_rows(task, TWO_LABELS)
    with pytest.raises(InputError, match="task 't': no rows are given for it; there are rows for u"):
        build_triplets({"t": task}, {"u": rows}, seed=0)
    with pytest.raises(InputError, match="task 't': unknown column 'label'; known: id, text_a, text_b"):
        build_triplets({"t": task}, {"t": rows.remove_columns("label")}, seed=0)
    words = rows.cast_column("label", datasets.Value("string"))
    with pytest.raises(InputError, match="task 't', column 'label': expected numbers, got string"):
        build_triplets({"t": task}, {"t": words}, seed=0)


@pytest.mark.parametrize("options", [{"own_negatives": 0}, {"seed": -1}])
def test_numbers_that_cannot_be(options):
    with pytest.raises(InputError, match="expected"):
        build({"t": ("binary", False, TWO_LABELS)}, **options)
