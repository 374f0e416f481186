"""Which rows, in which order, in which batches: a pure function of (seed, epoch, number of processes).

Nothing here keeps a random state between epochs, so a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import RandomSampler, Sampler, WeightedRandomSampler

ORDERS = ("sequential", "interleaved", "annealed")
#: Batches whose rows are sorted by length together: long enough for like lengths, short enough to stay random.
POOL = 64


@dataclass(frozen=True)
class TaskRows:
    """What the sampler has to know of a task's training rows.

    Args:
        lengths: Tokens of each row, `(rows,)`.
        strata: A small integer per row by which rows are weighted: the class, or the rounded value of a regression.
        examples: How many rows an epoch draws; None means as many as there are.
    """

    lengths: np.ndarray
    strata: np.ndarray
    examples: int | None = None

    @property
    def drawn(self) -> int:
        """Rows drawn in an epoch."""
        return len(self.lengths) if self.examples is None else self.examples


def strata(labels: Sequence[float] | np.ndarray, task_range: tuple[float, float] | None, bins: int = 5) -> np.ndarray:
    """Labels as weighting classes: a class as it is, a regression's value by its nearest step of `range / bins`.

    For similarities from 0 to 5 that is rounding to 0..5 (paper, section 4.2.3).
    """
    values = np.asarray(labels, dtype=np.float64)
    if task_range is None:
        return values.astype(np.int64)
    low, high = task_range
    return np.floor((values - low) / (high - low) * bins + 0.5).astype(np.int64)


def label_weights(classes: np.ndarray) -> torch.Tensor:
    """Weight 1 / count(class) for each row, so that the weights of every class sum to 1 (paper, section 4.2.3)."""
    _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    return torch.from_numpy(1.0 / counts[inverse])


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
        weighted: Draw with weight 1 / count(label), with replacement; else each row once.
        seed: With the epoch, all that the order depends on.
        epochs: Epochs of the whole run, for `annealed`.
        world_size: Number of processes.
        rank: This process.
        accumulation: Batches that one process adds up before an optimizer step.
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
        self._offsets = dict(
            zip(self.tasks, np.cumsum([0, *(len(t.lengths) for t in self.tasks.values())][:-1]).tolist(), strict=True)
        )

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
        if self.order != "annealed":
            return {name: task.drawn for name, task in self.tasks.items()}
        # Stickland & Murray (2019), section 4: probability ∝ rows^alpha, alpha from 1 to 0.2 over the run.
        progress = min(self.epoch / max(self.epochs - 1, 1), 1.0)
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
        steps = []
        for number, (name, rows) in enumerate(self.counts().items()):
            seeds = np.random.SeedSequence([self.seed, self.epoch, number]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(seeds[0]) >> 1)
            steps += self._task_steps(self.tasks[name], rows, self._offsets[name], generator)
        if self.order != "sequential":
            np.random.default_rng([self.seed, self.epoch]).shuffle(steps)
        for step in steps:
            for piece in range(self.rank, self.pieces, self.world_size):
                yield step[piece :: self.pieces].tolist()

    def _task_steps(self, task: TaskRows, rows: int, offset: int, generator: torch.Generator) -> list[np.ndarray]:
        """Row indices of one task, drawn, sorted by length within pools, cut into steps, the steps shuffled."""
        drawn = self._draw(task, rows, generator)
        drawn = np.resize(drawn, max(rows, self.pieces))  # fewer rows than processes: some are seen twice
        count = self._steps(rows)
        bounds = np.linspace(0, len(drawn), count + 1).astype(int)  # sizes differ by one row at most
        steps: list[np.ndarray] = []
        for first in range(0, count, POOL):
            last = min(first + POOL, count)
            pool = drawn[bounds[first] : bounds[last]]
            pool = pool[np.argsort(task.lengths[pool], kind="stable")] + offset
            steps += np.split(pool, bounds[first + 1 : last] - bounds[first])
        return [steps[index] for index in torch.randperm(count, generator=generator).tolist()]

    def _draw(self, task: TaskRows, rows: int, generator: torch.Generator) -> np.ndarray:
        sampler: Sampler[int]
        if self.weighted:
            sampler = WeightedRandomSampler(
                label_weights(task.strata),  # type: ignore[arg-type]  # a tensor is what it makes of it
                rows,
                replacement=True,
                generator=generator,
            )
        else:
            sampler = RandomSampler(task.lengths, num_samples=rows, generator=generator)  # type: ignore[arg-type]
        return np.fromiter(sampler, dtype=np.int64, count=rows)
