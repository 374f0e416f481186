"""What a run is told: one dataclass, filled from a YAML recipe, then from flags.

Keys that aren't ours are those of `transformers.TrainingArguments` and mean what they mean there.  Defaults that differ
from the Trainer's are listed in `TRAINER_DEFAULTS`.  Importing this module costs no torch: `--help` is instant.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from qabert.errors import InputError, suggest, unknown
from qabert.processes import launched_processes
from qabert.task_files import load_tasks
from qabert.tasks import Task
from qabert.training.key_values import coerce

if TYPE_CHECKING:
    from transformers import TrainingArguments

FORMATS = ("separate", "joint", "qa")
POOLINGS = ("first", "mean")
ORDERS = ("sequential", "interleaved", "annealed")
HUB_STRATEGIES = ("end", "every_save")
_NO_ROWS = "0 rows; expected at least 1: only a task that 'model' has can be scored without being trained"
TRIPLET_LOSSES = ("none", "equation1", "ranking")

#: Defaults of ours where the Trainer's differ.
TRAINER_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 3,
    "learning_rate": 5e-5,
    "warmup_steps": 0.1,  # below 1: a share of all steps
    "lr_scheduler_type": "linear",
    "weight_decay": 0.01,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "logging_steps": 50,
    "logging_nan_inf_filter": False,  # a NaN has to be seen
    "dataloader_pin_memory": False,
}
#: Set by the package because its trainer relies on them; not for recipes and flags.
FIXED: dict[str, Any] = {
    "metric_for_best_model": "eval_score",
    "greater_is_better": True,
    "label_names": ["labels"],
    "remove_unused_columns": False,
    # Every step leaves the other tasks' heads without gradients; activation checkpointing would flip the default.
    "ddp_find_unused_parameters": True,
    # Early stopping counts on where it was.
    "restore_callback_states_from_checkpoint": True,
}
_REFUSED = {"train_sampling_strategy", "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "hub_token",
            "push_to_hub_token", "hub_always_push", "hub_revision", "data_seed", "ignore_data_skip",
            "max_steps_per_epoch", "enable_jit_checkpoint", "auto_find_batch_size", "accelerator_config",
            "dataloader_drop_last", "dataloader_prefetch_factor"}  # fmt: skip


def _field(default: Any, help: str, **extra: Any) -> Any:
    metadata = {"help": help} | extra
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RunArguments:
    """A training run.

    Raises:
        InputError: A value is of the wrong type or out of range; the message names key and place.
    """

    data: str | None = _field(None, "folder of data files, 'hub', or 'demo' (small invented data, no benchmark)")
    tasks: Any = _field(None, "names of the paper's tasks (sst,sts,quora), a YAML file of tasks, or (recipe) a mapping")
    encoder: str = _field("minilm", "'minilm' (from qabert[offline]), or folder or hub name of any text encoder")
    model: str | None = _field(
        None, "trained qabert model to start from, folder or hub name: 'tasks' are added to its own"
    )
    format: str = _field("qa", "how rows become inputs", choices=FORMATS)
    max_length: int = _field(256, "longest input in tokens; longer ones are truncated", low=8)
    output_dir: str = _field("runs/qabert", "folder for the model, its scores and its checkpoints")
    order: str = _field("interleaved", "order of the tasks in an epoch; 'sequential' is the paper's", choices=ORDERS)
    examples_per_epoch: dict[str, int] = _field(
        dict, "rows an epoch draws, by task: quora=8000; all where not named; 0: a task of 'model' is only scored"
    )
    weighted_sampling: bool = _field(True, "draw rows with weight 1 / count(label)")
    prior_correction: bool = _field(True, "after weighted sampling: answer with the rows' own label shares")
    eval_examples: dict[str, int] = _field(dict, "dev rows scored during training, by task; the end scores all")
    both_orders: bool = _field(
        False, "train pairs of tasks that are 'symmetric' in either order, and answer with the mean of both"
    )
    pooling: str = _field("first", "sentence embedding: the first token's state or the mean of all", choices=POOLINGS)
    head_blocks: int = _field(4, "Linear-LayerNorm-Dropout-ReLU blocks in a head", low=0, high=64)
    head_width: int | None = _field(
        None, "width of those blocks; the encoder's hidden size if unset", low=1, high=16384
    )
    head_dropout: float = _field(0.1, "dropout in the heads", low=0.0, high=0.95)
    dropout: float | None = _field(
        None, "dropout in the encoder; as its configuration says if unset", low=0.0, high=0.95
    )
    freeze_encoder: bool = _field(False, "train the heads only; each row is embedded once")
    lora_rank: int | None = _field(None, "train LoRA adapters of this rank, not the whole encoder", low=1, high=4096)
    lora_alpha: int | None = _field(None, "an adapter counts lora_alpha / lora_rank; 2 × lora_rank if unset", low=1)
    lora_dropout: float | None = _field(None, "dropout of an adapter's input; none if unset", low=0.0, high=0.95)
    lora_targets: str | None = _field(None, "layers with an adapter: query,value or all-linear, as it is if unset")
    head_learning_rate: float | None = _field(None, "learning rate of the heads; learning_rate if unset", low=0.0)
    layer_decay: float = _field(
        1.0, "an encoder's layer learns at this times the rate of the layer above it", low=1e-6, high=1.0
    )
    ordinal_smoothing: float = _field(
        0.0, "share of a label that its neighbours get, where a task's labels are 'ordered'", low=0.0, high=0.99
    )
    teachers: dict[str, list[str]] = _field(
        dict, "trained models whose answers to a task's training rows are learnt beside the labels: sst=runs/large"
    )
    augment: dict[str, int] = _field(
        dict, "further rows for a task's teachers to label, so many a sentence: its parts, or new pairs with it: sst=2"
    )
    teacher_weight: float = _field(0.5, "share of a row's target that is its teacher's answer", low=1e-6, high=1.0)
    loss_weights: dict[str, float] = _field(dict, "factor of a task's loss: sst=2; 1 where not named")
    attn_implementation: str | None = _field(None, "eager, sdpa, …; transformers chooses if unset")
    early_stopping_patience: int | None = _field(None, "stop after so many evaluations without a better score", low=1)
    score_untrained: bool = _field(False, "also score the model before training, for the result table")
    triplet_loss: str = _field("none", "train the encoder on triplets first, with this loss", choices=TRIPLET_LOSSES)
    triplet_epochs: int = _field(1, "epochs of that stage", low=1)
    triplet_examples: dict[str, int] = _field(dict, "anchors its epoch draws, by task; all where not named")
    triplet_batch_size: int = _field(16, "anchors, each with its positive and negatives, per device and batch", low=1)
    triplet_learning_rate: float = _field(1e-5, "learning rate of that stage", low=1e-12)
    strict: bool = _field(False, "stop at the first broken row instead of skipping up to 1 %% of them")
    cache: bool = _field(True, "keep read and tokenised rows in HF_DATASETS_CACHE for the next run")
    push_to_hub: bool = _field(False, "put the model on the hub when it is saved; its token is HF_TOKEN or the login")
    hub_model_id: str | None = _field(None, "owner/name of the model on the hub")
    hub_private_repo: bool | None = _field(None, "make it a private one; as the owner's settings say if unset")
    hub_strategy: str = _field("end", "push at the end, or after every checkpoint too", choices=HUB_STRATEGIES)
    resume: str = _field("never", "'auto': go on from the newest checkpoint in output_dir, if any; or a checkpoint")
    overwrite: bool = _field(False, "delete the run that output_dir holds")
    trainer: dict[str, Any] = _field(dict, "every other key: transformers.TrainingArguments", internal=True)
    given: frozenset[str] = _field(frozenset, "the keys that were said, their defaults included", internal=True)

    def __post_init__(self) -> None:
        for item in own_fields():
            setattr(self, item.name, coerce(item, getattr(self, item.name)))
        for key in ("data", "encoder", "model", "output_dir"):
            if getattr(self, key) == "":
                raise InputError(f"key '{key}' is empty")
        if self.model is not None:
            self._check_model()
        elif 0 in self.examples_per_epoch.values():
            raise InputError(f"key 'examples_per_epoch': {_NO_ROWS}")
        for prefix, key, is_set in (
            ("triplet_", "triplet_loss", self.triplet_loss != "none"),
            ("lora_", "lora_rank", self.lora_rank is not None),
            ("hub_", "push_to_hub", self.push_to_hub),
            ("teacher_", "teachers", bool(self.teachers)),
        ):
            for item in own_fields():
                if not is_set and item.name.startswith(prefix) and self._is_changed(item.name):
                    raise InputError(f"key '{item.name}' is of '{key}': set that too, or remove it")
        if self.push_to_hub:
            self._check_hub()
        for one, other, why in (
            ("teachers", "freeze_encoder", "heads alone have little to learn"),
            ("layer_decay", "freeze_encoder", "no layer learns"),
            ("lora_rank", "freeze_encoder", "adapters are in the encoder"),
            (
                *("lora_rank", "triplet_loss"),
                "that stage trains the whole encoder; train it in a run of its own and start from there: --encoder "
                "OUTPUT_DIR/triplet --lora_rank …",
            ),
        ):
            if self._is_changed(one) and self._is_changed(other):
                raise InputError(f"keys '{one}' and '{other}' exclude each other: {why}")

    def _is_changed(self, key: str) -> bool:
        (item,) = (item for item in own_fields() if item.name == key)
        return bool(getattr(self, key) != ({} if item.default is dataclasses.MISSING else item.default))

    def _check_hub(self) -> None:
        if self.hub_model_id is None:
            raise InputError("key 'push_to_hub': set 'hub_model_id' to owner/name too")
        from qabert.hub.push import check_repo_id

        check_repo_id(self.hub_model_id, "key 'hub_model_id'")
        if self.hub_strategy == "every_save" and str(self.trainer.get("save_strategy", "epoch")) in ("no", "False"):
            raise InputError("key 'hub_strategy': with 'save_strategy: no' there is nothing to push before the end")

    def load_tasks(self) -> dict[str, Task]:
        """The declared tasks; also checks that the keys of rows by task name some of them.

        Raises:
            InputError: A task that can't be, or a name that no task has.
        """
        known: dict[str, Task] = {}
        if self.model is not None:
            from qabert.model_config import declared_tasks, read_config  # imports torch

            known = declared_tasks(read_config(self.model))
        tasks = load_tasks(self.tasks, known=known)
        for key in ("examples_per_epoch", "eval_examples", "triplet_examples", "loss_weights"):
            for name in getattr(self, key):
                if name not in tasks:
                    raise unknown("task", name, tasks, f"key '{key}'")
        for key, is_set, has in (
            ("ordinal_smoothing", self.ordinal_smoothing, lambda task: task.ordered),
            ("both_orders", self.both_orders, lambda task: task.symmetric),
        ):
            if is_set and not any(map(has, tasks.values())):
                word = "ordered" if key == "ordinal_smoothing" else "symmetric"
                raise InputError(f"key '{key}': none of the tasks ({', '.join(tasks)}) is declared '{word}: true'")
        for name in (scored := [name for name in tasks if not self.trains(name)]):
            if name not in known:
                raise InputError(f"key 'examples_per_epoch', task '{name}': {_NO_ROWS}")
        if len(scored) == len(tasks):
            raise InputError("key 'examples_per_epoch': every task has 0 rows, so that nothing would be trained")
        return tasks

    def _check_model(self) -> None:
        if "encoder" in self.given and self.encoder != self.model:
            raise InputError("keys 'encoder' and 'model' exclude each other: a trained model brings its encoder along")
        if self.tasks is None:
            raise InputError(f"key 'tasks' is missing: name the tasks that model '{self.model}' is to learn")
        if self.triplet_loss != "none":
            raise InputError("key 'triplet_loss' trains an encoder that has no heads yet: remove it, or 'model'")

    def trains(self, task: str) -> bool:
        """Whether rows of this task are drawn; otherwise it is only scored."""
        return self.examples_per_epoch.get(task) != 0

    def training_arguments(self) -> TrainingArguments:
        """The Trainer's own arguments.

        Raises:
            InputError: An unknown key (the nearest one is suggested), one that this package sets itself, a bad value.
        """
        from transformers import HfArgumentParser, TrainingArguments

        names = {item.name for item in dataclasses.fields(TrainingArguments) if item.init}
        for key in self.trainer:
            if key in FIXED or key in _REFUSED:
                raise InputError(f"key '{key}' is set by this package; remove it")
            if key not in names:
                known = names - set(FIXED) - _REFUSED | {item.name for item in own_fields()}
                raise InputError(f"unknown key '{key}'{suggest(key, known)}; --help lists the keys")
        if self.trainer.get("ddp_backend") and launched_processes() == 1:
            raise InputError("key 'ddp_backend' is for several processes: start them with torchrun --nproc-per-node N")
        from qabert.training.trackers import tracker_names

        words: list[str] = []
        report_to = tracker_names(self.trainer.get("report_to"))[1] or ["none"]  # ours are a callback of the run's
        for key, value in (TRAINER_DEFAULTS | self.trainer | {"report_to": report_to}).items():
            if key.endswith("_strategy") and value is False:
                value = "no"  # what YAML makes of a bare no
            if value is not None:
                parts = value if isinstance(value, list) else [value]
                words += [f"--{key}", *(json.dumps(p) if isinstance(p, dict | bool) else str(p) for p in parts)]
        parser = HfArgumentParser(TrainingArguments, allow_abbrev=False)  # type: ignore[arg-type]
        parser.error = _raise_input_error  # type: ignore[method-assign]
        try:
            (parsed,) = parser.parse_args_into_dataclasses([*words, "--output_dir", self.output_dir])
            for key in (
                "num_train_epochs",
                "learning_rate",
                "per_device_train_batch_size",
                "per_device_eval_batch_size",
                "gradient_accumulation_steps",
            ):
                if not 0 < getattr(parsed, key) < float("inf"):
                    raise InputError(f"key '{key}' has {getattr(parsed, key)!r}; expected a number over 0")
            values = {
                key: getattr(parsed, key) for key in {"output_dir", "report_to", *TRAINER_DEFAULTS, *self.trainer}
            }
            result = TrainingArguments(**values, **FIXED)
            _check_optimizer(result, self.trainer)
            return result
        except (ValueError, TypeError, ImportError, OSError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"training arguments: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """All keys with their values, flat, as a recipe would have them."""
        own = {item.name: getattr(self, item.name) for item in own_fields()}
        return own | TRAINER_DEFAULTS | self.trainer


def _raise_input_error(message: str) -> NoReturn:
    raise InputError(message.replace("argument --", "key "))


def _check_optimizer(args: TrainingArguments, given: Mapping[str, Any]) -> None:
    """Build optimizer and schedule for one weight: what they are told is read when training begins, far too late."""
    for start in ("lr_scheduler", "optim", "adam_"):
        keys = [key for key in given if key.startswith(start)]
        if not keys:
            continue
        import torch
        from transformers import Trainer, get_scheduler

        try:
            weight = torch.nn.Parameter(torch.zeros(1))
            if start == "lr_scheduler":
                optimizer = torch.optim.SGD([weight])
                settings: Any = args.lr_scheduler_kwargs
                get_scheduler(args.lr_scheduler_type, optimizer, 0, 1, scheduler_specific_kwargs=settings)
            else:
                kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
                kind([weight], **settings)
        except Exception as error:  # theirs: whatever the libraries of optimizers raise
            shown = ", ".join(f"'{key}' ({given[key]!r})" for key in keys)
            raise InputError(f"keys {shown}: can't be used: {error}") from None


def keys_left_out() -> set[str]:
    """Keys of `TrainingArguments` that no recipe may have, or that are ours."""
    return set(FIXED) | _REFUSED | {item.name for item in own_fields()}


def own_fields() -> list[dataclasses.Field[Any]]:
    """The keys that are ours, as fields."""
    return [item for item in dataclasses.fields(RunArguments) if not item.metadata.get("internal")]
