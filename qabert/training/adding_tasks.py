"""Starting from a trained model instead of an encoder: what it can do is kept, what it lacks is added."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.model_config import declared_tasks, read_config
from qabert.modeling import QABertModel
from qabert.modeling.modeling_qabert import set_dropout
from qabert.tasks import Task
from qabert.training.arguments import RunArguments

#: What the encoder and the heads of a trained model were made for, by key; the configuration's own names.
FIXED = {
    "format": "input_format",
    "max_length": "max_length",
    "pooling": "pooling",
    "both_orders": "both_orders",
    "head_blocks": "head_blocks",
    "head_width": "head_width",
}
#: What of a task its head has learnt to answer.
MEANING = ("problem", "labels", "range", "question", "context")
#: A kept task that is worse by more than this is warned of.
LOSS = 0.02


def adopt(args: RunArguments, model: str) -> RunArguments:
    """The run's arguments with those of the model that it starts from.

    Raises:
        InputError: A key says something else than the model is; or the model stands in the run's own folder.
    """
    config, output = read_config(model), Path(args.output_dir).resolve()
    if Path(model).exists() and output in (Path(model).resolve(), *Path(model).resolve().parents):
        raise InputError(f"key 'model': '{model}' is in output_dir {args.output_dir}; choose another --output_dir")
    values = {key: getattr(config, name) for key, name in FIXED.items()}
    for key, value in values.items():
        if key in args.given and getattr(args, key) != value:
            raise InputError(
                f"key '{key}' is {getattr(args, key)!r}, but model '{model}' was trained with {value!r}: remove the "
                "key, or train from an encoder"
            )
    if "head_dropout" not in args.given:
        values["head_dropout"] = config.head_dropout
    return replace(args, **values, encoder=model, given=args.given - {"encoder"})


class TrainedModel:
    """A trained model that a run starts from.

    Args:
        path: Folder or hub name.
        tasks: The tasks that the run declares; those that the model has are trained along, or scored.
        args: The run's.

    Raises:
        InputError: It can't be trusted or loaded (see `Predictor.from_pretrained`), or has a task of one of these names
            that means something else.

    Attributes:
        tokenizer: Its tokenizer.
        tasks: Its own tasks.
        declared: Those of them that the run declares.
        plan: A text that says which tasks are new, trained along and kept.
        warnings: Lines about tasks that will be forgotten.
    """

    def __init__(self, path: str, tasks: Mapping[str, Task], args: RunArguments) -> None:
        self.path = path
        self.run_tasks = dict(tasks)
        self.tasks = declared_tasks(read_config(path))
        self.declared = {name: task for name, task in tasks.items() if name in self.tasks}
        for name, task in self.declared.items():
            self._check_meaning(self.tasks[name], task)
        predictor = Predictor.from_pretrained(path, "cpu")
        self.model, self.tokenizer = predictor.model, predictor.tokenizer
        along = [name for name in self.declared if args.trains(name)]
        kept = [name for name in self.tasks if name not in along]
        parts = {"new": [name for name in tasks if name not in self.tasks], "trained along": along, "kept": kept}
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
        self.plan = f"starting from model '{path}'; {said}"
        self.warnings: list[str] = []
        if kept and not args.freeze_encoder:
            self.warnings = [
                f"the encoder changes under the heads of {', '.join(kept)}, which aren't trained along: their answers "
                "will be worse; declare them in 'tasks' too, or set freeze_encoder"
            ]
            self.plan += f"\nwarning: {self.warnings[0]}"

    def _check_meaning(self, own: Task, task: Task) -> None:
        for key in MEANING:
            if getattr(own, key) != getattr(task, key):
                raise InputError(
                    f"task '{own.name}', key '{key}': model '{self.path}' has a task of this name with "
                    f"{getattr(own, key)!r}, and this is {getattr(task, key)!r}; give the new task another name, or "
                    "leave the key out"
                )
        if own.pair != task.pair:
            raise InputError(
                f"task '{own.name}', key 'columns': model '{self.path}' has a task of this name with "
                f"{'two sentences' if own.pair else 'one sentence'} a row; give the new task another name"
            )

    def extended(self, args: RunArguments, trained: Collection[str], priors: Mapping[str, list[float]]) -> QABertModel:
        """The model with new heads for the tasks that it lacks.

        Args:
            args: The run's, as `adopt` returned them.
            trained: The tasks to train; the heads of others are frozen.
            priors: Label shares of the trained tasks (see `losses.with_prior`); others keep theirs.
        """
        config = copy.deepcopy(self.model.config)
        own = [self.run_tasks.get(name, task) for name, task in self.tasks.items()]
        new = [task for name, task in self.run_tasks.items() if name not in self.tasks]
        config.tasks = [task.to_dict() for task in (*own, *new)]
        kept = {name: prior for name, prior in (config.priors or {}).items() if name not in trained}
        config.priors = kept | dict(priors) or None
        if not args.freeze_encoder:  # what was fitted to the encoder as it was
            config.temperatures = None
        config.freeze_encoder, config.head_dropout = args.freeze_encoder, args.head_dropout
        if args.dropout is not None:
            encoder_config = config.encoder_config()
            set_dropout(encoder_config, args.dropout)
            config.encoder = {k: v for k, v in encoder_config.to_dict().items() if k != "_name_or_path"}
        config._attn_implementation = args.attn_implementation or config._attn_implementation
        model = QABertModel(config)
        if args.attn_implementation is not None:
            model.encoder.set_attn_implementation(args.attn_implementation)
        heads = tuple(f"heads.head_{task.name}." for task in new)
        weights = self.model.state_dict()
        model.load_state_dict(weights | {k: v for k, v in model.state_dict().items() if k.startswith(heads)})
        for task in own:
            if task.name not in trained:
                model.heads[f"head_{task.name}"].requires_grad_(False)
        return model

    @contextmanager
    def as_it_was(self, model: Any) -> Iterator[None]:
        """Within this, an extended model that hasn't been trained yet answers the old tasks as it did, priors too."""
        priors, model.config.priors = model.config.priors, self.model.config.priors
        try:
            yield
        finally:
            model.config.priors = priors

    def losses(self, before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> list[str]:
        """A line for each old task whose score went down noticeably."""
        return [
            f"task '{name}' lost: {task.score} {before[name][task.score]:.3f} before, {after[name][task.score]:.3f} now"
            for name, task in self.declared.items()
            if after[name][task.score] < before[name][task.score] - LOSS
        ]
