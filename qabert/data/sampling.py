"""Which rows, in which order, in which batches: a pure function of (seed, epoch, number of processes).

Nothing here keeps a random state between epochs, so a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler, WeightedRandomSampler

from qabert.errors import InputError

ORDERS = ("sequential", "interleaved", "annealed")
#: Batches whose rows are sorted by length together: long enough for like lengths, short enough to stay random.
POOL = 64
#: Rows that are converted or drawn at once: what an intermediate costs doesn't grow with the rows.
CHUNK = 2**18


@dataclass(frozen=True)
class TaskRows:
    """What the sampler has to know of a task's training rows.

    Args:
        lengths: Tokens of each row, `(rows,)`, in any integer type: kept as it is, so a small one saves memory.
        strata: A small integer per row by which rows are weighted: the class, or the rounded value of a regression
            (see `strata`).  `(rows,)`, kept as it is too.
        examples: How many rows an epoch draws; None means as many as there are.
        variants: How often the dataset has these rows, one block after the other, each row in another form (a pair in
            its other order, say): a drawn row gets one of its forms, evenly.
    """

    lengths: np.ndarray
    strata: np.ndarray
    examples: int | None = None
    variants: int = 1

    @property
    def held(self) -> int:
        """Rows of the dataset, all their forms."""
        return len(self.lengths) * self.variants

    @property
    def drawn(self) -> int:
        """Rows drawn in an epoch."""
        return len(self.lengths) if self.examples is None else self.examples


def column(values: Any, convert: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """A column of numbers as an array; integers in the smallest type that holds them all.

    The column is read in slices: `np.asarray` reads a dataset's lazy column row by row, a hundred times slower.
    Integers without a minus sign get an unsigned type: cast them before you negate or subtract.

    Args:
        values: Anything with a length and slices: a list, an array, a dataset's column.
        convert: Applied to each slice; without it the numbers stay what they are.

    Returns:
        Shape `(rows,)`.
    """
    parts = []
    for first in range(0, max(len(values), 1), CHUNK):
        part = np.asarray(values[first : first + CHUNK])
        parts.append(_smallest(part if convert is None else convert(part)))
    return _smallest(np.concatenate(parts))


def _smallest(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iu":
        return values
    low, high = values.min(initial=0), values.max(initial=0)
    kinds = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64)
    fits = next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return values.astype(fits, copy=False)


def _row_type(rows: int) -> tuple[type, torch.dtype]:
    """The type of a row's number, for numpy and for torch."""
    return (np.int32, torch.int32) if rows < 2**31 else (np.int64, torch.int64)


def strata(labels: Sequence[float] | np.ndarray, task_range: tuple[float, float] | None, bins: int = 5) -> np.ndarray:
    """Labels as weighting classes: a class as it is, a regression's value by its nearest step of `range / bins`.

    For similarities from 0 to 5 that is rounding to 0..5 (paper, section 4.2.3).

    Returns:
        Shape `(rows,)`, in the smallest integer type that holds them.
    """
    if task_range is None:
        return column(labels, lambda values: values.astype(np.int64))
    low, high = task_range
    return column(
        labels,
        lambda values: np.floor((values.astype(np.float64) - low) / (high - low) * bins + 0.5).astype(np.int64),
    )


def longest_first(lengths: Any) -> np.ndarray:
    """The order in which batches are of like length, and memory that doesn't suffice fails at once.

    Args:
        lengths: Tokens of each row: an array, a list or a dataset's column.

    Returns:
        Row numbers, shape `(rows,)`; rows of the same length stay in their order.
    """
    return np.argsort(-column(lengths).astype(np.int32), kind="stable")


@dataclass(frozen=True)
class Classes:
    """A task's rows grouped by class.

    Args:
        rows: Row numbers, class after class.
        ends: Where each class ends in `rows`, `(classes,)`.
    """

    rows: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, strata: np.ndarray) -> Classes:
        """Group rows by their class, in slices, so that no 8-byte array of all rows is made."""
        classes, counts = np.unique(strata, return_counts=True)
        ends = np.cumsum(counts)
        filled = ends - counts
        rows: np.ndarray = np.empty(len(strata), dtype=_row_type(len(strata))[0])
        for first in range(0, len(strata), CHUNK):
            part = strata[first : first + CHUNK]
            found, sizes = np.unique(part, return_counts=True)
            own = np.searchsorted(classes, found)
            places = np.repeat(filled[own] - np.cumsum(sizes) + sizes, sizes) + np.arange(len(part))
            rows[places] = np.argsort(part, kind="stable") + first
            filled[own] += sizes
        return cls(rows, ends)

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Draw rows with weight 1 / count(class), with replacement (paper, section 4.2.3).

        The weights of every class sum to 1, so this is a class drawn evenly and then one of its rows drawn evenly:
        P(row) = 1 / classes × 1 / count(class), what weights over the rows give as well.  Those, however, stop at
        2^24 rows, the most categories that `torch.multinomial` takes.

        Returns:
            Row numbers, shape `(count,)`.
        """
        drawn = np.empty(count, dtype=self.rows.dtype)
        even = torch.ones(len(self.ends))
        starts = np.concatenate([[0], self.ends[:-1]])
        for first in range(0, count, CHUNK):
            size = min(CHUNK, count - first)
            sampler = WeightedRandomSampler(even, size, generator=generator)  # type: ignore[arg-type]  # any sequence
            of_class = np.fromiter(sampler, dtype=np.int64, count=size)
            # A double below 1 times a count rounds to less than the count, and is even to one part in 2^53.
            share = torch.rand(size, generator=generator, dtype=torch.float64).numpy()
            start = starts[of_class]
            drawn[first : first + size] = self.rows[start + (share * (self.ends[of_class] - start)).astype(np.int64)]
        return drawn


def _shuffled(rows: int, count: int, first: int, seeds: Sequence[int]) -> np.ndarray:
    """A stretch of an endless row of permutations: no row is drawn again before all have been.

    Args:
        rows: How many there are.
        count: How many to draw.
        first: How many were drawn before.
        seeds: With a permutation's number, all that it depends on.
    """
    number, torch_number = _row_type(rows)
    drawn: np.ndarray = np.empty(count, dtype=number)
    filled = 0
    while filled < count:
        which, start = divmod(first + filled, rows)
        order = torch.randperm(rows, generator=_generator([*seeds, which]), dtype=torch_number).numpy()
        part = order[start : start + count - filled]
        drawn[filled : filled + len(part)] = part
        filled += len(part)
    return drawn


def _generator(seeds: Sequence[int]) -> torch.Generator:
    state = np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


@dataclass
class TaskBatchSampler(Sampler[list[int]]):
    """Batches of one task, formed of rows of like length, for one process of `world_size`.

    A *step* is what the optimizer sees: rows of one task over all processes and accumulation steps.  A step is drawn
    first and then cut into `world_size × accumulation` batches, so neither number changes which rows meet in a step,
    and every process holds the same task at the same time and gets the same number of batches.

    Indices count through the tasks' rows in the order of `tasks`, as in a `ConcatDataset`.

    Args:
        tasks: Rows by task name, in training order.
        batch_size: Rows per batch on one process.
        order: `sequential` (task after task, the paper's), `interleaved` (steps of all tasks shuffled) or `annealed`
            (shuffled; each task's share of the rows goes from its size to equal shares over the `epochs`).
        weighted: Draw with weight 1 / count(label), with replacement (see `Classes.draw`); else no row is drawn again
            before all have been, over the epochs too.
        seed: With the epoch, all that the order depends on.
        epochs: Epochs of the whole run, for `annealed`.
        world_size: Number of processes.
        rank: This process.
        accumulation: Batches that one process adds up before an optimizer step.

    Raises:
        ValueError: There is no such order.
        InputError: A task has no rows, or draws none.
    """

    tasks: Mapping[str, TaskRows]
    batch_size: int
    order: str = "sequential"
    weighted: bool = True
    seed: int = 0
    epochs: int = 1
    world_size: int = 1
    rank: int = 0
    accumulation: int = 1
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order '{self.order}' is none of {', '.join(ORDERS)}")
        for name, task in self.tasks.items():
            if not len(task.lengths) or task.drawn < 1:
                raise InputError(
                    f"task '{name}': an epoch draws {task.drawn} of {len(task.lengths)} rows; it needs 1 at least"
                )
        self._classes = {name: Classes.of(task.strata) for name, task in self.tasks.items()} if self.weighted else {}

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is; the Trainer and a callback call this."""
        self.epoch = epoch

    @property
    def pieces(self) -> int:
        """Batches that one optimizer step is cut into."""
        return self.world_size * self.accumulation

    @property
    def examples_per_epoch(self) -> int:
        """Rows that all processes together draw in one epoch."""
        return sum(task.drawn for task in self.tasks.values())

    def counts(self) -> dict[str, int]:
        """Rows drawn from each task in this epoch."""
        return self._counts(self.epoch)

    def _counts(self, epoch: int) -> dict[str, int]:
        if self.order != "annealed":
            return {name: task.drawn for name, task in self.tasks.items()}
        # Stickland & Murray (2019), section 4: probability ∝ rows^alpha, alpha from 1 to 0.2 over the run.
        progress = min(epoch / max(self.epochs - 1, 1), 1.0)
        shares = np.array([task.drawn for task in self.tasks.values()], dtype=np.float64) ** (1 - 0.8 * progress)
        steps = self._steps(self.examples_per_epoch)
        # Largest remainders, in whole steps: every epoch has the same number of them, which schedules rely on.
        exact = shares / shares.sum() * steps
        whole = np.maximum(np.floor(exact).astype(int), 1)
        for index in np.argsort(np.floor(exact) - exact, kind="stable")[: max(steps - whole.sum(), 0)]:
            whole[index] += 1
        while whole.sum() > steps and whole.max() > 1:  # tiny tasks were lifted to one step each
            whole[whole.argmax()] -= 1
        size = self.batch_size * self.pieces
        return {name: int(number) * size for name, number in zip(self.tasks, whole, strict=True)}

    def _steps(self, rows: int) -> int:
        # A step needs a row for every batch it is cut into, or a process would wait for one that never comes.
        return max(1, min(-(-rows // (self.batch_size * self.pieces)), rows // self.pieces))

    def __len__(self) -> int:
        """Batches that this process gets in an epoch."""
        if self.order == "annealed":
            return max(self._steps(self.examples_per_epoch), len(self.tasks)) * self.accumulation
        return sum(self._steps(task.drawn) for task in self.tasks.values()) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        """This process's batches of the current epoch, as lists of row indices."""
        drawn, orders, ends = [], [], [0]
        before = self._drawn_before()
        for number, (name, rows) in enumerate(self.counts().items()):
            generator = _generator([self.seed, self.epoch, number])
            drawn.append(self._draw(name, rows, generator, before[name], [self.seed, number]))
            steps = self._steps(rows)
            orders.append(torch.randperm(steps, generator=generator).numpy() + ends[-1])
            ends.append(ends[-1] + steps)
        order = np.concatenate(orders)
        if self.order != "sequential":
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        offsets = np.cumsum([0, *(task.held for task in self.tasks.values())]).tolist()
        # Only slices are made here, as they are asked for: lists of all batches would take ten times the rows' numbers.
        for step in map(int, order):
            task = bisect_right(ends, step) - 1
            first, last = _bounds(step - ends[task], ends[task + 1] - ends[task], len(drawn[task]))
            for piece in range(self.rank, self.pieces, self.world_size):
                rows_of_task = drawn[task][first + piece : last : self.pieces]
                yield (rows_of_task.astype(np.int64) + offsets[task]).tolist()

    def _drawn_before(self) -> dict[str, int]:
        """Rows that earlier epochs drew from each task."""
        if self.order != "annealed":
            return {name: task.drawn * self.epoch for name, task in self.tasks.items()}
        earlier = [self._counts(epoch) for epoch in range(self.epoch)]
        return {name: sum(counts[name] for counts in earlier) for name in self.tasks}

    def _draw(self, name: str, rows: int, generator: torch.Generator, before: int, seeds: Sequence[int]) -> np.ndarray:
        """Row numbers of one task, drawn, and sorted by length within pools of steps."""
        lengths = self.tasks[name].lengths
        if self.weighted:
            drawn = self._classes[name].draw(rows, generator)
        else:
            drawn = _shuffled(len(lengths), rows, before, [*seeds, 1])
        if rows < self.pieces:  # fewer rows than processes: some are seen twice
            drawn = np.resize(drawn, self.pieces)
        steps = self._steps(rows)
        for step in range(0, steps, POOL):
            first = _bounds(step, steps, len(drawn))[0]
            last = _bounds(min(step + POOL, steps) - 1, steps, len(drawn))[1]
            pool = drawn[first:last]
            pool[:] = pool[np.argsort(lengths[pool], kind="stable")]
        if (variants := self.tasks[name].variants) > 1:
            forms = torch.randint(variants, (len(drawn),), generator=generator).numpy()
            drawn = drawn.astype(_row_type(self.tasks[name].held)[0], copy=False) + forms.astype(drawn.dtype) * len(
                lengths
            )
        return drawn


def _bounds(step: int, steps: int, rows: int) -> tuple[int, int]:
    """Where a step begins and ends when rows are cut into steps whose sizes differ by one row at most."""
    return step * rows // steps, (step + 1) * rows // steps
