"""A trained model's `config.json`: what it was trained to answer, and how."""

from __future__ import annotations

from pathlib import Path

from qabert.data.prompts import FORMATS
from qabert.errors import InputError, suggest, told, unknown
from qabert.model_files import check_folder, local_folder
from qabert.modeling import QABertConfig
from qabert.tasks import Task


def read_config(path: str) -> QABertConfig:
    """A checkpoint's configuration, checked.

    Raises:
        InputError: No such folder or repository, no `config.json`, or one that this package didn't write.
    """
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise InputError(f"model '{path}': expected a folder with config.json, as training writes it")
    try:
        folder = local_folder(path, ["config.json"])
    except (OSError, ValueError) as error:
        parent = Path(path).parent
        near = suggest(path, map(str, parent.iterdir())) if parent.is_dir() else ""
        reason = f"no such folder{near}, and not to be had from the hub: {told(error)}"
        raise InputError(f"model '{path}': {reason}") from None
    values = check_folder(folder, f"model '{path}'")
    kind = values.get("model_type") if isinstance(values, dict) else type(values).__name__
    if kind != "qabert" or not values.get("tasks"):
        raise InputError(f"model '{path}': config.json is of a '{kind}' model; expected one that qabert trained")
    try:
        config = QABertConfig.from_dict(values)
        for declared in config.tasks or []:
            task = Task.from_dict(declared, f"model '{path}', config.json, tasks")
            prior = (config.priors or {}).get(task.name)
            if prior is not None and (len(prior) != len(task.labels) or not all(0 < share < 1 for share in prior)):
                raise ValueError(f"priors of task '{task.name}': expected a share for each of its labels, got {prior}")
            temperature = (config.temperatures or {}).get(task.name, 1)
            if (
                isinstance(temperature, bool)
                or not 0 < temperature < float("inf")
                or (temperature != 1 and not task.labels)
            ):
                raise ValueError(
                    f"temperatures of task '{task.name}': {temperature!r}; expected a number over 0, of labels"
                )
        config.encoder_config()
        if config.input_format not in FORMATS:
            raise unknown("format", config.input_format, FORMATS, f"model '{path}', config.json, input_format")
        if config.pooling not in ("first", "mean"):
            raise unknown("pooling", config.pooling, ("first", "mean"), f"model '{path}', config.json, pooling")
        for key, least in (("max_length", 1), ("head_blocks", 0), ("head_width", 1)):
            value = getattr(config, key)
            if (type(value) is not int or value < least) and (key, value) != ("head_width", None):
                raise ValueError(f"{key} is {value!r}; expected a whole number from {least}")
    except InputError:
        raise
    except Exception as error:  # strict dataclasses raise classes of their own
        raise InputError(f"model '{path}': config.json can't be used: {told(error)}") from None
    return config


def declared_tasks(config: QABertConfig) -> dict[str, Task]:
    """A model's tasks, by name."""
    return {values["name"]: Task.from_dict(values) for values in config.tasks or []}
