"""The metrics as `evaluate.Metric` subclasses.

`evaluate.load("accuracy")` downloads a script; these stand in the package, so they work offline, alone or in
`evaluate.combine`.  Importing this module imports `evaluate`, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray

from qabert.errors import unknown
from qabert.evaluation.metrics import METRIC_FUNCTIONS, multitask_score, task_columns
from qabert.tasks import Task

_CITATION = """\
@article{scikit-learn, title={Scikit-learn: Machine Learning in Python}, author={Pedregosa, F. and others},
journal={Journal of Machine Learning Research}, volume={12}, pages={2825--2830}, year={2011}}
"""


class _Metric(evaluate.Metric):
    """A metric that keeps its rows in memory (no cache folder, file or lock) unless told otherwise.

    Args:
        config_name: As in `evaluate.Metric`.
        keep_in_memory: False for `num_process > 1`, where the processes meet in files.
        **kwargs: As in `evaluate.Metric`.
    """

    inputs: ClassVar[str] = ""

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **kwargs: Any) -> None:
        super().__init__(config_name, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # The base class makes a folder in the user's cache even where it then writes nothing to it.
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").strip(),
            citation=_CITATION,
            inputs_description=self.inputs,
            features=datasets.Features(self._columns()),
            format="numpy",
        )

    def _columns(self) -> dict[str, datasets.Value]:
        # Floats for class indices too: a column declared int64 casts a prediction of 0.2 to class 0 without a word,
        # whereas the functions in `metrics` see the 0.2 and refuse it.
        return {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}


class _FunctionMetric(_Metric):
    key: ClassVar[str]
    inputs: ClassVar[str] = "predictions and references: one number for each row, of equal length."

    def _compute(self, predictions: NDArray[np.float64], references: NDArray[np.float64]) -> dict[str, float]:
        return {self.key: METRIC_FUNCTIONS[self.key](predictions, references)}


class Accuracy(_FunctionMetric):
    """Share of the rows whose predicted class is the true one."""

    key = "accuracy"


class MacroF1(_FunctionMetric):
    """Unweighted mean of the F1 of each class that is predicted or true anywhere."""

    key = "macro_f1"


class F1(_FunctionMetric):
    """F1 of class 1; 0.0 where class 1 is neither predicted nor true."""

    key = "f1"


class Pearson(_FunctionMetric):
    """Pearson's correlation; 0.0 where it is undefined (one row, or either side constant)."""

    key = "pearson"


class Spearman(_FunctionMetric):
    """Spearman's rank correlation; 0.0 where it is undefined (one row, or either side constant)."""

    key = "spearman"


METRICS: dict[str, type[_FunctionMetric]] = {
    metric.key: metric for metric in (Accuracy, MacroF1, F1, Pearson, Spearman)
}


class MultitaskScore(_Metric):
    """Mean of every task's first metric, over rows of all tasks in any order.

    Args:
        tasks: The tasks by name; each of them needs at least one row.
        **kwargs: As in `evaluate.Metric`.

    Example:
        >>> from qabert.tasks import PAPER_TASKS
        >>> metric = MultitaskScore({name: PAPER_TASKS[name] for name in ("sst", "quora")})
        >>> metric.compute(predictions=[4, 2, 1], references=[4, 3, 1], tasks=["sst", "sst", "quora"])
        {'score': 0.75, 'sst_accuracy': 0.5, 'quora_accuracy': 1.0}
    """

    inputs: ClassVar[str] = "predictions and references: one number for each row; tasks: the name of each row's task."

    def __init__(self, tasks: Mapping[str, Task], **kwargs: Any) -> None:
        self.tasks = dict(tasks)
        super().__init__(**kwargs)

    def _columns(self) -> dict[str, datasets.Value]:
        return super()._columns() | {"tasks": datasets.Value("string")}

    def _compute(
        self, predictions: NDArray[np.float64], references: NDArray[np.float64], tasks: NDArray[np.str_]
    ) -> dict[str, float]:
        names = np.asarray(tasks)
        for name in np.unique(names):
            if name not in self.tasks:
                raise unknown("task", name, self.tasks)
        scores, parts = {}, {}
        for name, task in self.tasks.items():
            rows = names == name
            if not rows.any():
                raise ValueError(f"task '{name}' has no rows to score")
            scores[name] = METRIC_FUNCTIONS[task.score](*task_columns(task, predictions[rows], references[rows]))
            parts[f"{name}_{task.score}"] = scores[name]
        return {"score": multitask_score(scores)} | parts


def load_metric(name: str) -> evaluate.Metric:
    """A new `evaluate.Metric` by its name; works offline and touches no files.

    Raises:
        InputError: There is no such metric.

    Example:
        >>> load_metric("accuracy").compute(predictions=[0, 1], references=[1, 1])
        {'accuracy': 0.5}
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]()


def task_metrics(task: Task, predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """All of a task's metrics, in the task's order.

    Args:
        task: Says which metrics, and which labels there are.
        predictions: Class indices (classification, binary) or numbers in the task's unit, shape `(rows,)`.
        references: The same for the true labels.

    Raises:
        ValueError: Values that no metric can judge (NaN, say); the message names the task.

    Example:
        >>> from qabert.tasks import SST
        >>> task_metrics(SST, [0, 4], [0, 4])
        {'accuracy': 1.0, 'macro_f1': 1.0}
    """
    predicted, true = task_columns(task, predictions, references)
    # `evaluate.combine` would first have each metric write and read its own copy; that is all it would add here.
    scores: dict[str, float] = {}
    for name in task.metrics:
        scores |= load_metric(name).compute(predictions=predicted, references=true)
    return scores
