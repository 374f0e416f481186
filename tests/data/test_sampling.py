"""Sampling: every order is a pure function of (seed, epoch, number of processes)."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections import Counter
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qabert.data import sampling
from qabert.data.sampling import ORDERS, Classes, TaskBatchSampler, TaskRows, column, strata
from qabert.errors import InputError


def make(sizes, *, examples=None, labels=2, **options):
    """A sampler of tasks `t0`, `t1`, … of so many rows with random lengths and classes."""
    rng = np.random.default_rng(sum(sizes))
    tasks = {
        f"t{number}": TaskRows(
            lengths=rng.integers(3, 60, size),
            strata=rng.integers(0, labels, size),
            examples=(examples or {}).get(number),
        )
        for number, size in enumerate(sizes)
    }
    return TaskBatchSampler(tasks, **({"batch_size": 4} | options))


def batches(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return list(sampler)


def ranks(sampler, epoch=0):
    """What every process gets."""
    return [batches(dataclasses.replace(sampler, rank=rank), epoch) for rank in range(sampler.world_size)]


def steps(sampler, epoch=0):
    """Sorted rows of every optimizer step over all processes and accumulation steps."""
    every, a = ranks(sampler, epoch), sampler.accumulation
    count = len(every[0]) // a
    return [sorted(i for rank in every for batch in rank[k * a : (k + 1) * a] for i in batch) for k in range(count)]


def task_of(sampler, index):
    ends = np.cumsum([len(task.lengths) for task in sampler.tasks.values()])
    return int(np.searchsorted(ends, index, side="right"))


def tasks_of(sampler, sequence):
    """The task of every batch or step; fails where one mixes tasks."""
    found = [{task_of(sampler, index) for index in one} for one in sequence]
    assert all(len(one) == 1 for one in found)
    return [one.pop() for one in found]


sizes = st.lists(st.integers(1, 120), min_size=1, max_size=4)
options = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 9),
        "order": st.sampled_from(ORDERS),
        "weighted": st.booleans(),
        "seed": st.integers(0, 2**32),
        "epochs": st.integers(1, 5),
        "world_size": st.integers(1, 4),
        "accumulation": st.integers(1, 3),
    }
)

# --- steps and processes ----------------------------------------------------------------------------------------------


@given(sizes, options, st.integers(0, 4))
@settings(deadline=None)
def test_every_process_gets_as_many_batches_as_announced_and_none_is_empty(sizes, options, epoch):
    sampler = make(sizes, **options)
    for got in ranks(sampler, epoch):
        assert len(got) == len(sampler)
        assert all(got)


@given(sizes, options, st.integers(0, 4))
@settings(deadline=None)
def test_all_processes_hold_one_task_in_a_step(sizes, options, epoch):
    sampler = make(sizes, **options)
    tasks_of(sampler, steps(sampler, epoch))


@given(sizes, options, st.integers(0, 4))
@settings(deadline=None)
def test_no_batch_is_larger_than_asked(sizes, options, epoch):
    assume(options["batch_size"] > 1)  # with 1, a step of an odd row more is better than a process without a row
    sampler = make(sizes, **options)
    for got in ranks(sampler, epoch):
        assert max(map(len, got)) <= options["batch_size"]


@given(st.lists(st.integers(8, 120), min_size=1, max_size=3), st.integers(2, 6), st.sampled_from(ORDERS), st.booleans())
@settings(deadline=None)
def test_cutting_a_step_does_not_change_its_rows(sizes, batch_size, order, weighted):
    """Two processes, two accumulation steps, or one batch of double size: the optimizer sees the same rows."""
    same = {"order": order, "weighted": weighted, "epochs": 3}
    whole = steps(make(sizes, batch_size=2 * batch_size, **same), 1)
    assert whole == steps(make(sizes, batch_size=batch_size, world_size=2, **same), 1)
    assert whole == steps(make(sizes, batch_size=batch_size, accumulation=2, **same), 1)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 80), st.integers(1, 20), st.data())
@settings(deadline=None, max_examples=60)
def test_no_process_waits_for_a_batch_that_never_comes(sizes, examples, world_size, data):
    """Also with a single row, with more processes than rows, and with other numbers of rows drawn than there are."""
    drawn = {"examples": data.draw(st.sampled_from([None, {0: examples}])), "weighted": data.draw(st.booleans())}
    rest = {"order": data.draw(st.sampled_from(ORDERS)), "accumulation": data.draw(st.integers(1, 3)), "epochs": 2}
    sampler = make(sizes, world_size=world_size, batch_size=data.draw(st.integers(1, 5)), **drawn, **rest)
    every = ranks(sampler, epoch=1)
    assert {len(batches) for batches in every} == {len(sampler)}
    assert all(batch for batches in every for batch in batches)
    tasks_of(sampler, steps(sampler, 1))


@given(st.lists(st.integers(12, 200), min_size=1, max_size=3), st.integers(2, 5), st.sampled_from(ORDERS), st.data())
@settings(deadline=None)
def test_every_cut_of_a_step_has_its_rows(sizes, batch_size, order, data):
    """The steps are those of one process with one large batch, in the same order, for all cuts into 2 to 12 pieces."""
    world_size, accumulation = data.draw(st.sampled_from([(12, 1), (1, 12), (2, 3), (3, 2), (4, 3), (1, 2), (5, 1)]))
    pieces = world_size * accumulation
    same = {"order": order, "weighted": data.draw(st.booleans()), "epochs": 3, "seed": data.draw(st.integers(0, 9))}
    cut = make(sizes, batch_size=batch_size, world_size=world_size, accumulation=accumulation, **same)
    assert steps(cut, 1) == steps(make(sizes, batch_size=batch_size * pieces, **same), 1)


def test_pieces_of_a_step_are_of_like_size():
    sampler = make([101], batch_size=8, world_size=3, accumulation=2)
    every = ranks(sampler)
    for k in range(len(sampler) // 2):
        found = [len(batch) for rank in every for batch in rank[2 * k : 2 * k + 2]]
        assert max(found) - min(found) <= 1


def test_fewer_rows_than_pieces_are_seen_twice():
    sampler = make([3], weighted=False, world_size=4, accumulation=2)
    every = ranks(sampler)
    assert [[len(batch) for batch in rank] for rank in every] == [[1, 1]] * 4
    assert {index for rank in every for batch in rank for index in batch} == {0, 1, 2}


@given(sizes, options)
@settings(deadline=None)
def test_indices_are_those_of_a_concatenation(sizes, options):
    sampler = make(sizes, **options)
    found = {index for rank in ranks(sampler) for batch in rank for index in batch}
    assert found <= set(range(sum(sizes)))
    assert set(tasks_of(sampler, steps(sampler))) == set(range(len(sizes)))


# --- a pure function --------------------------------------------------------------------------------------------------


@given(sizes, options, st.integers(0, 4))
@settings(deadline=None)
def test_resumed_sampler_draws_what_the_uninterrupted_one_does(sizes, options, epoch):
    used = make(sizes, **options)
    for earlier in range(epoch):
        batches(used, earlier)
    assert batches(used, epoch) == batches(make(sizes, **options), epoch)


def test_neither_uses_nor_moves_the_global_random_state():
    torch.manual_seed(1)
    np.random.seed(1)
    first, state = batches(make([50, 30], order="interleaved")), (torch.get_rng_state(), np.random.get_state()[1])
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(state[0], torch.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])
    torch.manual_seed(2)
    np.random.seed(2)
    assert batches(make([50, 30], order="interleaved")) == first


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weighted", [True, False])
def test_epochs_differ(order, weighted):
    sampler = make([50, 30], order=order, weighted=weighted, epochs=3)
    assert len({str(batches(sampler, epoch)) for epoch in range(3)}) == 3


def test_seeds_differ():
    assert batches(make([50, 30], seed=1)) != batches(make([50, 30], seed=2))


def test_tasks_of_equal_size_are_drawn_differently():
    first, second = batches(make([200, 200], examples={0: 50, 1: 50}, weighted=False, batch_size=50))
    assert set(first) != {index - 200 for index in second}


# --- orders -----------------------------------------------------------------------------------------------------------


@given(sizes, options)
@settings(deadline=None)
def test_sequential_goes_task_by_task(sizes, options):
    sampler = make(sizes, **options | {"order": "sequential"})
    found = tasks_of(sampler, batches(sampler))
    assert found == sorted(found)


def test_interleaved_shuffles_the_steps_of_sequential():
    sampler = make([80, 60, 40])
    mixed = dataclasses.replace(sampler, order="interleaved")
    assert sorted(steps(mixed)) == sorted(steps(sampler))
    found = tasks_of(mixed, steps(mixed))
    assert sum(a != b for a, b in pairwise(found)) > 10


def test_unknown_order_is_refused():
    with pytest.raises(ValueError, match=r"order 'random' is none of sequential, interleaved, annealed"):
        make([5], order="random")


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("rows", "examples"), [(5, 0), (5, -2), (0, None), (0, 3)])
def test_task_that_draws_no_row_is_refused(rows, examples, weighted):
    with pytest.raises(InputError, match=r"task 't1': an epoch draws -?\d of \d rows; it needs 1 at least"):
        make([5, rows], examples={1: examples}, weighted=weighted)


@given(sizes, options)
@settings(deadline=None)
def test_unweighted_epoch_has_every_row_once(sizes, options):
    options |= {"weighted": False, "world_size": 1, "accumulation": 1}
    assume(options["order"] != "annealed")
    sampler = make(sizes, **options)
    assert sorted(index for batch in batches(sampler) for index in batch) == list(range(sum(sizes)))


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (1, 3), (3, 2)])
def test_unweighted_epoch_of_all_processes_has_every_row_once(world_size, accumulation):
    sampler = make([71, 40], weighted=False, world_size=world_size, accumulation=accumulation)
    assert sorted(index for step in steps(sampler) for index in step) == list(range(111))


def test_examples_take_a_subset_each_epoch_of_rows_that_were_not_drawn_yet():
    sampler = make([30, 500], examples={1: 100}, weighted=False)
    drawn = []
    for epoch in range(2):
        found = [index for batch in batches(sampler, epoch) for index in batch if index >= 30]
        assert len(found) == len(set(found)) == 100
        drawn.append(set(found))
    assert not drawn[0] & drawn[1]
    assert sampler.examples_per_epoch == 130


def test_steps_are_shuffled_within_a_task():
    """Batches are formed in order of length; seen in that order the lengths would be a curriculum."""
    sampler = make([600], weighted=False)
    means = [sampler.tasks["t0"].lengths[batch].mean() for batch in batches(sampler)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3


# --- weights ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-3, 9), min_size=1, max_size=60), st.sampled_from([np.int8, np.int64]), st.integers(1, 70))
@settings(deadline=None)
def test_classes_are_grouped_whatever_the_slices(labels, kind, chunk):
    labels = np.array(labels, dtype=kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "CHUNK", chunk)
        found = Classes.of(labels)
    expected = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    assert [part.tolist() for part in np.split(found.rows, found.ends[:-1])] == expected
    assert found.ends[-1] == len(labels)


@pytest.mark.parametrize("chunk", [999, 2**18])
def test_weighted_rows_are_drawn_with_weight_one_over_the_count_of_their_class(monkeypatch, chunk):
    """Chi-square over the classes, and over the rows of each class, against the weights themselves."""
    from scipy.stats import chisquare

    monkeypatch.setattr(sampling, "CHUNK", chunk)
    classes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 7], [700, 200, 99, 1]))
    tasks = {"t": TaskRows(lengths=np.full(1000, 9), strata=classes, examples=60_000)}
    drawn = np.bincount([i for batch in batches(TaskBatchSampler(tasks, 32, seed=3)) for i in batch], minlength=1000)
    by_class = [drawn[classes == label] for label in (0, 1, 2, 7)]
    assert chisquare([rows.sum() for rows in by_class]).pvalue > 0.001
    for rows in by_class[:3]:
        assert chisquare(rows).pvalue > 0.001
    weights = 1 / np.bincount(classes)[classes] / 4
    assert chisquare(drawn, weights * drawn.sum()).pvalue > 0.001


@given(st.integers(1, 60), st.integers(1, 90), st.integers(1, 6), st.sampled_from(["interleaved", "annealed"]))
def test_no_row_is_drawn_again_before_all_have_been(rows, examples, epochs, order):
    sampler = make([rows, 25], examples={0: examples}, weighted=False, batch_size=4, order=order, epochs=epochs)
    drawn = [i for epoch in range(epochs) for batch in batches(sampler, epoch) for i in batch if i < rows]
    counts = np.bincount(drawn, minlength=rows)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("rows", [1, 7, 30])
def test_more_rows_than_there_are_come_as_whole_permutations(rows):
    sampler = make([rows], examples={0: 3 * rows + rows // 2}, weighted=False, batch_size=10 * rows)
    (drawn,) = batches(sampler)
    assert set(np.bincount(drawn)) <= {3, 4}
    assert len(drawn) == 3 * rows + rows // 2


def test_weighted_draws_are_balanced():
    classes = np.repeat([0, 1, 2], [3600, 360, 40])
    tasks = {"t": TaskRows(lengths=np.full(4000, 9), strata=classes)}
    drawn = [index for batch in batches(TaskBatchSampler(tasks, 32)) for index in batch]
    shares = np.bincount(classes[drawn]) / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


def test_unweighted_subset_keeps_the_shares():
    classes = np.repeat([0, 1], [3600, 400])
    tasks = {"t": TaskRows(lengths=np.full(4000, 9), strata=classes, examples=2000)}
    drawn = [index for batch in batches(TaskBatchSampler(tasks, 32, weighted=False)) for index in batch]
    assert np.mean(classes[drawn]) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("label", "stratum"),
    [(0, 0), (0.49, 0), (0.5, 1), (1.4, 1), (1.5, 2), (2.5, 3), (3.5, 4), (4.49, 4), (4.5, 5), (5, 5)],
)
def test_sts_labels_are_rounded_with_halves_up(label, stratum):
    assert strata([label], (0.0, 5.0)).tolist() == [stratum]


@given(st.lists(st.floats(0, 5), min_size=1), st.floats(-100, 100), st.floats(0.1, 100))
def test_strata_of_any_range_are_fifths(labels, low, width):
    values = low + np.array(labels) / 5 * width
    found = strata(values, (low, low + width))
    assert found.min() >= 0 and found.max() <= 5
    assert np.abs((values - low) / width * 5 - found).max() <= 0.5 + 1e-6


def test_classes_are_their_own_strata():
    assert strata([4, 0, 2], None).tolist() == [4, 0, 2]


# --- any size ---------------------------------------------------------------------------------------------------------


def test_more_rows_than_multinomial_takes():
    """2^24 rows and more; an epoch of a few of them, of which both classes are halves."""
    rows = 2**24 + 1000
    classes = np.zeros(rows, dtype=np.uint8)
    classes[-500:] = 1
    tasks = {"t": TaskRows(lengths=np.zeros(rows, dtype=np.int32), strata=classes, examples=2000)}
    tracemalloc.start()
    drawn = [index for batch in batches(TaskBatchSampler(tasks, 32)) for index in batch]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(drawn) == 2000 and min(drawn) < 2**23 < max(drawn)
    assert np.mean(np.array(drawn) >= rows - 500) == pytest.approx(0.5, abs=0.05)
    assert peak < 10 * rows  # bytes: 4 to group a row by its class, no arrays of 8-byte numbers beside them


@pytest.mark.parametrize("weighted", [True, False])
def test_an_epoch_takes_a_few_bytes_a_row(weighted):
    rows = 1_000_000
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 5, rows, dtype=np.uint8)
    tasks = {"t": TaskRows(lengths=rng.integers(3, 60, rows, dtype=np.uint8), strata=classes)}
    tracemalloc.start()
    batch = next(iter(TaskBatchSampler(tasks, 32, weighted=weighted, order="interleaved")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(batch) == 32
    assert peak < (12 if weighted else 2) * 2**20 + 8 * rows  # slices of 2^18 rows, and 4 bytes twice for each row


def test_strata_are_made_in_slices():
    values = np.random.default_rng(0).uniform(0, 5, 4_000_000)
    tracemalloc.start()
    strata(values, (0.0, 5.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * len(values) + 30 * sampling.CHUNK  # bytes: the slices' results and the whole


def test_rows_keep_their_types():
    lengths, classes = np.array([3, 4, 5], dtype=np.uint8), np.array([0, 1, 1], dtype=np.int8)
    sampler = TaskBatchSampler({"t": TaskRows(lengths, classes)}, 2)
    batches(sampler)
    assert sampler.tasks["t"].lengths is lengths and sampler.tasks["t"].strata is classes


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], np.uint8), ([0, 255], np.uint8), ([0, 256], np.uint16), ([-1, 127], np.int8), ([-1, 128], np.int16),
        ([2**16], np.uint32), ([-(2**31), 1], np.int32), ([2**32], np.int64), ([0.5, 1], np.float64),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [1, 2**18])
def test_column_is_of_the_smallest_type(monkeypatch, values, kind, chunk):
    monkeypatch.setattr(sampling, "CHUNK", chunk)
    found = column(values if values else np.array([], dtype=np.int64))
    assert found.tolist() == values and found.dtype == kind


def test_lazy_column_is_read_in_slices(monkeypatch):
    """Row by row, a million rows would take half a minute."""
    rows = datasets.Dataset.from_dict({"length": list(range(1000)), "label": [x / 200 for x in range(1000)]})
    monkeypatch.setattr(sampling, "CHUNK", 300)
    monkeypatch.setattr(datasets.arrow_dataset.Column, "__iter__", None)
    assert column(rows["length"]).tolist() == list(range(1000)) and column(rows["length"]).dtype == np.uint16
    assert strata(rows["label"], (0.0, 5.0)).tolist() == [int(x / 200 + 0.5) for x in range(1000)]
    assert strata(rows["label"], (0.0, 5.0)).dtype == np.uint8
    assert strata(rows["length"], None).dtype == np.uint16


# --- annealed ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 3), st.integers(1, 2))
@settings(deadline=None, max_examples=50)
def test_annealed_epochs_have_the_same_number_of_steps_and_every_task(sizes, epochs, world_size, accumulation):
    sampler = make(
        sizes, order="annealed", epochs=epochs, batch_size=16, world_size=world_size, accumulation=accumulation
    )
    length = len(sampler)
    for epoch in range(epochs + 1):
        found = tasks_of(sampler, batches(sampler, epoch))
        assert len(found) == len(sampler) == length
        assert set(found) == set(range(len(sizes)))


def test_annealed_shares_go_from_sizes_towards_equal():
    sampler = make([8000, 1000], order="annealed", epochs=5, batch_size=10)
    shares = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        counts = sampler.counts()
        shares.append(counts["t0"] / sum(counts.values()))
    assert shares[0] == pytest.approx(8 / 9, abs=0.002)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(8**0.2 / (8**0.2 + 1), abs=0.002)


def test_annealed_counts_are_what_is_drawn():
    sampler = make([300, 40], order="annealed", epochs=3, batch_size=8)
    for epoch in range(3):
        drawn = Counter(task_of(sampler, index) for batch in batches(sampler, epoch) for index in batch)
        assert {f"t{task}": count for task, count in drawn.items()} == sampler.counts()


def test_epoch_after_the_last_is_as_the_last():
    sampler = make([8000, 1000], order="annealed", epochs=2, batch_size=10)
    counts = []
    for epoch in (1, 2, 9):
        sampler.set_epoch(epoch)
        counts.append(sampler.counts())
    assert counts[0] == counts[1] == counts[2]


# --- like lengths -----------------------------------------------------------------------------------------------------


def padding(lengths, groups):
    """Share of padding among the tokens of batches padded to their longest row."""
    total = sum(len(group) * lengths[group].max() for group in groups)
    return 1 - sum(lengths[group].sum() for group in groups) / total


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_have_little_padding(weighted, world_size):
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.1, 0.5, 6000), 4, 128).astype(int)
    sampler = TaskBatchSampler(
        {"t": TaskRows(lengths, rng.integers(0, 5, 6000))}, 32, weighted=weighted, world_size=world_size
    )
    assert padding(lengths, np.array_split(rng.permutation(6000), 188)) > 0.4
    assert padding(lengths, batches(sampler)) < 0.06
