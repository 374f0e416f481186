"""Sampling: every order is a pure function of (seed, epoch, number of processes)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qabert.data.sampling import ORDERS, TaskBatchSampler, TaskRows, label_weights, strata


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


def test_examples_take_a_fresh_subset_each_epoch():
    sampler = make([30, 500], examples={1: 100}, weighted=False)
    drawn = []
    for epoch in range(2):
        found = [index for batch in batches(sampler, epoch) for index in batch if index >= 30]
        assert len(found) == len(set(found)) == 100
        drawn.append(set(found))
    assert len(drawn[0] & drawn[1]) < 50
    assert sampler.examples_per_epoch == 130


def test_steps_are_shuffled_within_a_task():
    """Batches are formed in order of length; seen in that order the lengths would be a curriculum."""
    sampler = make([600], weighted=False)
    means = [sampler.tasks["t0"].lengths[batch].mean() for batch in batches(sampler)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3


# --- weights ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-3, 9), min_size=1, max_size=60))
def test_weights_of_each_label_sum_to_one(classes):
    weights = label_weights(np.array(classes)).numpy()
    for label in set(classes):
        assert weights[np.array(classes) == label].sum() == pytest.approx(1)


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
