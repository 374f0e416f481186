"""A sweep file: what a hyperparameter search tries, read from YAML and checked before anything runs.

```yaml
recipe: ../recipes/quick.yaml     # or `settings:`, keys of a recipe, which win over the recipe's
space:
  learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
  head_blocks: [0, 1, 4]
  examples_per_epoch.quora: {low: 1000, high: 8000, step: 1000}
sampler: tpe                      # grid, random or tpe
pruner: median                    # none, median or hyperband
trials: 20
seed: 1
```

Any key of a run may stand in the space, ours as well as the Trainer's.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qabert.errors import InputError, unknown
from qabert.training.arguments import RunArguments
from qabert.training.key_values import by_task_numbers
from qabert.training.plans import _declaration
from qabert.training.recipes import from_keys, read_recipe
from qabert.yaml_files import read_yaml

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SAMPLERS = ("grid", "random", "tpe")
PRUNERS = ("none", "median", "hyperband")
#: Each trial has its own.
_OWN = ("output_dir", "resume", "overwrite")
_COUNTS = ("examples_per_epoch", "eval_examples", "triplet_examples", "loss_weights")
_RANGE = ("low", "high", "log", "step", "type")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a search tries.

    Args:
        settings: Keys of a recipe that all trials share.
        space: By key, a list of choices, or a range: `low`, `high`, and maybe `log`, `step` and `type` (int or float).
            A key such as `examples_per_epoch.quora` is the rows of one task.
        sampler: "grid" tries every combination, "random" draws each trial by itself, "tpe" follows the scores so far.
        pruner: What ends a trial early by its scores so far: nothing, a score below the median, or Hyperband.
        trials: How many; None means the whole grid, and 20 for the other samplers.
        seed: Of what the samplers draw; training has a key `seed` of its own.

    Raises:
        InputError: A value can't work; the message names the key.
    """

    settings: Mapping[str, Any]
    space: Mapping[str, Any]
    sampler: str = "tpe"
    pruner: str = "none"
    trials: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("settings", "space"):
            if not isinstance(getattr(self, key), Mapping):
                raise InputError(f"key '{key}' has {getattr(self, key)!r}; expected a mapping")
        for key, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            if getattr(self, key) not in known:
                raise unknown("value", getattr(self, key), known, f"key '{key}'")
        for key, low in (("trials", 1), ("seed", 0)):
            number = getattr(self, key)
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < low):
                raise InputError(f"key '{key}' has {number!r}; expected a whole number from {low}")
        if not self.space:
            raise InputError("key 'space': there is nothing to search")
        for key, values in self.space.items():
            if not isinstance(key, str):
                raise InputError(f"key 'space' has the key {key!r}; expected a run's keys")
            if key in _OWN or key == "run_name":
                raise InputError(f"key 'space', '{key}': each trial has its own")
            if "." in key and key.split(".")[0] not in _COUNTS:
                raise InputError(
                    f"key 'space', '{key}': only {', '.join(_COUNTS)} have parts, such as {_COUNTS[0]}.sst"
                )
            _check_values(key, values)
        if self.sampler == "grid":
            self.grid()

    @property
    def number(self) -> int:
        """How many trials there are in all."""
        if self.sampler != "grid":
            return self.trials or 20
        return min(math.prod(map(len, self.grid().values())), self.trials or 2**31)

    def grid(self) -> dict[str, list[Any]]:
        """All values by key.

        Raises:
            InputError: A range without `step` has no end of them.
        """
        values = {}
        for key, given in self.space.items():
            if not isinstance(given, Mapping):
                values[key] = list(given)
                continue
            low, high, step = given["low"], given["high"], given.get("step")
            if step is None:
                raise InputError(f"key 'space', '{key}': the grid sampler needs choices, or a range with 'step'")
            count = int((high - low) / step + 1e-9) + 1
            points = [low + number * step for number in range(count)]
            values[key] = points if _whole(given) else [float(f"{point:.12g}") for point in points]
        return values

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in optuna's terms; choices that are lists or mappings as JSON text, as its databases need it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for key, given in self.space.items():
            if not isinstance(given, Mapping):
                found[key] = CategoricalDistribution([packed(value) for value in given])
                continue
            kind: Any = IntDistribution if _whole(given) else FloatDistribution
            step = {"step": given["step"]} if given.get("step") is not None else {}
            try:
                found[key] = kind(given["low"], given["high"], log=bool(given.get("log")), **step)
            except ValueError as error:  # log from 0, log with a step
                raise InputError(f"key 'space', '{key}' has {dict(given)!r}: {error}") from None
        return found

    def points(self) -> list[dict[str, Any]] | None:
        """The trials' values, where they don't follow from other trials' scores: of the grid, and drawn at random."""
        if self.sampler == "grid":
            values = self.grid()
            found = (dict(zip(values, point, strict=True)) for point in itertools.product(*values.values()))
            return list(itertools.islice(found, self.number))
        if self.sampler == "random":
            import optuna

            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(self.seed))
            spaces = self.distributions()
            return [
                {key: unpacked(value) for key, value in study.ask(spaces).params.items()} for _ in range(self.number)
            ]
        return None

    def corners(self) -> Iterator[dict[str, Any]]:
        """Every choice, and both ends of every range, once each, with the other keys at their first."""
        ends = {key: [v["low"], v["high"]] if isinstance(v, Mapping) else list(v) for key, v in self.space.items()}
        first = {key: values[0] for key, values in ends.items()}
        yield first
        for key, values in ends.items():
            for value in values[1:]:
                yield first | {key: value}

    def keys(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe of the settings with a trial's values."""
        keys = dict(self.settings)
        for key, value in values.items():
            name, dot, part = key.partition(".")
            keys[name] = by_task_numbers(name, keys.get(name) or {}) | {part: value} if dot else value
        return keys

    def arguments(self, values: Mapping[str, Any], output: Path) -> RunArguments:
        """The arguments of a trial's run.

        Raises:
            InputError: They can't work; the message names the trial's values.
        """
        try:
            args = from_keys(self.keys(values) | {"output_dir": str(output)})
            training_args = args.training_arguments()
            args.load_tasks()
            if self.pruner != "none" and training_args.eval_strategy == "no":
                raise InputError(
                    f"key 'pruner' is {self.pruner}, which needs scores during training: set eval_strategy"
                )
            return args
        except InputError as error:
            raise InputError(f"trial with {shown(values)}: {error}") from None

    def check(self, output: Path) -> None:
        """Check every trial that is known beforehand, or else every choice and both ends of every range.

        Raises:
            InputError: One can't work.
        """
        self.distributions()
        for values in self.points() or self.corners():
            self.arguments(values, output)

    def to_dict(self) -> dict[str, Any]:
        """The sweep as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def read_sweep(path: Path, flags: Mapping[str, Any]) -> Sweep:
    """Read a sweep file.

    Args:
        path: A YAML file with the keys of `Sweep`, and maybe `recipe`: a recipe's path, from this file's folder.
        flags: What wins over the file: keys of `Sweep` (but the space), and settings.

    Raises:
        InputError: The file, its recipe or a key can't be used, or a flag is a key of the space.
    """
    values = read_yaml(path)
    known = [*(item.name for item in fields(Sweep)), "recipe"]
    for key in values:
        if key not in known:
            raise unknown("key", key, known, str(path))
    settings = values.get("settings") or {}
    if "space" not in values:
        raise InputError(f"{path}: key 'space' is missing")
    recipe = values.pop("recipe", None)
    if not isinstance(recipe, str | None) or not isinstance(settings, Mapping):
        raise InputError(f"{path}: 'recipe' is a path and 'settings' a mapping of a recipe's keys")
    own = ("sampler", "pruner", "trials", "seed")
    more = {key: value for key, value in flags.items() if key not in own}
    for key in more:
        if isinstance(values["space"], Mapping) and any(key == name.split(".")[0] for name in values["space"]):
            raise InputError(f"key '{key}' is what {path} searches: edit the file instead")
    for key in {*settings, *more} & set(_OWN):
        raise InputError(f"key '{key}': each trial has its own; --output_dir is the sweep's")
    tasks = settings.get("tasks")
    if isinstance(tasks, str) and tasks.endswith((".yaml", ".yml")) and not Path(tasks).is_absolute():
        settings = {**settings, "tasks": str(path.parent / tasks)}
    merged = {**(read_recipe(path.parent / recipe) if recipe else {}), **settings, **more}
    settings = {key: value for key, value in merged.items() if key not in _OWN}
    try:
        if isinstance(settings.get("tasks"), str) and settings["tasks"].endswith((".yaml", ".yml")):
            # Written out: the best recipe stands in another folder.
            declared = from_keys({"tasks": settings["tasks"]}).load_tasks()
            settings["tasks"] = {name: _declaration(task) for name, task in declared.items()}
        space = _numbers(values["space"])
        chosen = {key: value for key, value in flags.items() if key in own}
        return Sweep(**(values | {"space": space, "settings": settings} | chosen))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def shown(values: Mapping[str, Any]) -> str:
    """A trial's values in a line."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def _check_values(key: str, values: Any) -> None:
    place = f"key 'space', '{key}'"
    if isinstance(values, Sequence) and not isinstance(values, str):
        choices = [packed(value) for value in values]
        if not choices or len({(type(value), value) for value in choices}) < len(choices):
            raise InputError(f"{place} has {list(values)!r}; expected different choices")
        return
    if not isinstance(values, Mapping) or not {"low", "high"} <= set(values):
        raise InputError(f"{place} has {values!r}; expected a list of choices, or a range {{low: …, high: …}}")
    for name in values:
        if name not in _RANGE:
            raise unknown("key", name, _RANGE, place)
    numbers = [values[name] for name in ("low", "high", "step") if values.get(name) is not None]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise InputError(f"{place} has {dict(values)!r}; expected numbers")
    if not -math.inf < values["low"] < values["high"] < math.inf or (values.get("step") or 1) <= 0:
        raise InputError(f"{place} has {dict(values)!r}; expected low below high, and a step over 0")
    if values.get("type") not in (None, "int", "float") or not isinstance(values.get("log", False), bool):
        raise InputError(f"{place} has {dict(values)!r}; expected type int or float, and log true or false")
    if values.get("type") == "int" and any(number != int(number) for number in numbers):
        raise InputError(f"{place} has {dict(values)!r}; expected whole numbers for type int")


def _whole(values: Mapping[str, Any]) -> bool:
    """Whether a range is one of whole numbers."""
    if values.get("type") is not None:
        return bool(values["type"] == "int")
    return all(isinstance(values[name], int) for name in ("low", "high", "step") if values.get(name) is not None)


def _numbers(values: Any) -> Any:
    """Values with what YAML leaves a text though it is a number, such as 1e-3, as numbers."""
    if isinstance(values, Mapping):
        return {key: _numbers(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    try:
        return float(values) if isinstance(values, str) else values
    except ValueError:
        return values


def packed(value: Any) -> Any:
    """A choice as optuna's databases take it: lists and mappings as JSON text."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def unpacked(value: Any) -> Any:
    """What `packed` was given."""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
