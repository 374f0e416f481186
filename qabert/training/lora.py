"""LoRA (Hu et al., 2021): train two thin matrices beside each of the encoder's linear layers instead of the layer.

A run trains with `peft`'s layers and ends with a whole, merged model; beside it `adapter/` holds what was learnt alone,
which `qabert merge` puts onto the encoder again.  The heads are trained in full.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from qabert.checkpoints import verify, whole_folder
from qabert.errors import InputError, RunError, loading_problem
from qabert.files import check_new_folder
from qabert.model_config import read_config
from qabert.model_files import mismatched, read_json
from qabert.modeling import QABertModel
from qabert.modeling.modeling_qabert import speed_up
from qabert.training.encoders import PACKAGED, find_encoder, load_tokenizer

#: Where a run's adapter is, and in it the heads.
ADAPTER, HEADS = "adapter", "heads"
WEIGHTS = "adapter_model.safetensors"
#: What peft puts before the names of the encoder's layers.
PREFIX = "base_model.model."
ALL_LINEAR = "all-linear"


def require_peft() -> None:
    """Check that `peft` is there and nothing asks for what adapters can't do, before anything is loaded.

    Raises:
        InputError: It isn't installed, or the launcher asks for FSDP.
    """
    if find_spec("peft") is None:
        raise InputError("key 'lora_rank' needs peft, which isn't installed: pip install 'qabert[lora]'")
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise InputError("key 'lora_rank': adapters aren't trained under FSDP; use several processes without it")


def add_adapters(
    model: QABertModel, rank: int, alpha: int | None = None, dropout: float | None = None, targets: str | None = None
) -> None:
    """Put adapters beside the encoder's linear layers, and freeze the rest of it.

    Args:
        model: Changed in place; its answers stay the same, since an adapter begins as zero.
        rank: Width of an adapter's middle.
        alpha: An adapter's output is multiplied by `alpha / rank`; None means `2 × rank`.
        dropout: Dropout of an adapter's input; None means none.
        targets: `all-linear`, or last parts of the layers' names with commas between them, such as `query,value`.

    Raises:
        InputError: The encoder has no such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = targets or ALL_LINEAR
    names: Any = targets if targets == ALL_LINEAR else [name.strip() for name in targets.split(",")]
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout or 0.0,
        target_modules=names,
        inference_mode=False,
    )
    linear = [name for name, layer in model.encoder.named_modules() if isinstance(layer, torch.nn.Linear)]
    for name in names if isinstance(names, list) else []:
        if not any(known == name or known.endswith(f".{name}") for known in linear):
            last = sorted({known.rpartition(".")[2] for known in linear})
            raise InputError(f"key 'lora_targets': the encoder has no linear layer '{name}'; known: {', '.join(last)}")
    inject_adapter_in_model(config, model.encoder)
    speed_up(model.encoder)  # the adapters' own layers


def weight_counts(model: torch.nn.Module) -> dict[str, Any]:
    """How many weights there are, how many of them are trained, and their share."""
    total = sum(weights.numel() for weights in model.parameters())
    trained = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    return {"total": total, "trained": trained, "share": round(trained / total, 6)}


def finish(model: QABertModel, folder: Path, encoder: str, main: bool) -> None:
    """Write the adapter and the heads, then merge the adapter into the encoder.

    To be called on every process.

    Args:
        model: Changed in place: its layers are plain ones again.
        folder: Where to write.
        encoder: What the run was told its encoder is; a folder's name isn't kept.
        main: Whether this process writes.

    Raises:
        RunError: A merged weight is no number.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned: Any = model.encoder
    (config,) = tuned.peft_config.values()
    config.inference_mode = True
    config.base_model_name_or_path = encoder if encoder in PACKAGED or not Path(encoder).exists() else None
    if main:
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        adapter = get_peft_model_state_dict(tuned, save_embedding_layers=False)
        with whole_folder(folder) as part:
            config.save_pretrained(str(part))
            save_file({PREFIX + name: _plain(value) for name, value in adapter.items()}, part / WEIGHTS)
            (part / HEADS).mkdir()
            model.config.save_pretrained(part / HEADS)
            heads = {name: _plain(value) for name, value in model.heads.state_dict().items()}
            metadata = {"format": "pt", "encoder_sha256": _digest(tuned)}
            save_file(heads, part / HEADS / "model.safetensors", metadata)
    for name, layer in list(tuned.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            try:  # safely is into a new tensor: laid-out copies of the old one are told by its place in memory
                layer.merge(safe_merge=True)
            except ValueError as error:
                raise RunError(f"the adapter of '{name}' can't be merged: {error}") from None
            tuned.set_submodule(name, layer.get_base_layer())
    del tuned.peft_config
    model.encoder.requires_grad_(True)


def merge(adapter: str, output: Path, encoder: str | None = None) -> None:
    """Write a whole model: an encoder with an adapter's learning in it, and its heads.

    Args:
        adapter: The `adapter/` folder of a run.
        output: The model's folder; must not exist, or be empty.
        encoder: The one that the adapter was trained on; None takes the name that the adapter has.

    Raises:
        InputError: The adapter or the encoder can't be had, they don't belong together, or there is such a folder.
    """
    folder = Path(adapter)
    where = f"adapter '{adapter}'"
    check_new_folder(output)
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{where}: expected a folder with adapter_config.json, as a run with lora_rank writes it")
    verify(folder)
    settings = read_json(folder / "adapter_config.json", where)
    factor, named = _settings(settings, where)
    config = read_config(str(folder / HEADS))
    if encoder is None and not isinstance(named, str):
        raise InputError(f"{where} doesn't name its encoder, which was a folder: give --encoder FOLDER")
    encoder = find_encoder(str(encoder or named))
    tokenizer = load_tokenizer(encoder, config.max_length)
    kept = (
        "tasks",
        "input_format",
        "max_length",
        "head_blocks",
        "head_width",
        "head_dropout",
        "pooling",
        "both_orders",
        "priors",
    )
    try:
        model = QABertModel.from_encoder(encoder, **{key: getattr(config, key) for key in kept})
    except Exception as error:
        if (problem := loading_problem(error)) is None:
            raise
        raise InputError(f"encoder '{encoder}' can't be loaded: {problem}") from None
    heads, metadata = _read(folder / HEADS, "model.safetensors", where)
    if metadata.get("encoder_sha256") != _digest(model.encoder):
        raise InputError(
            f"{where} was trained on another encoder than '{encoder}': their weights differ; see --encoder"
        )
    if sorted(heads) != sorted(model.heads.state_dict()) or mismatched(model.heads, _shapes(heads)):
        raise InputError(f"{where}: {HEADS}/config.json and {HEADS}/model.safetensors don't fit")
    model.heads.load_state_dict(heads)
    _add(model, _read(folder, WEIGHTS, where)[0], factor, where)
    model.config.encoder = config.encoder  # the encoder's own but for the dropout that the run chose
    with whole_folder(output) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)


def _settings(values: Any, where: str) -> tuple[float, Any]:
    """`alpha / rank` and the encoder's name of `adapter_config.json`."""
    values = values if isinstance(values, Mapping) else {}
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if values.get("peft_type") != "LORA" or type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise InputError(f"{where}: adapter_config.json: expected peft_type LORA, a whole r over 0 and a lora_alpha")
    for key in ("use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "lora_bias"):
        if values.get(key):
            raise InputError(f"{where}: adapter_config.json, '{key}': runs of this package don't use it")
    return alpha / rank, values.get("base_model_name_or_path")


def _read(folder: Path, name: str, where: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / name, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, OverflowError) as error:
        raise InputError(f"{where}: {name} can't be read: {error}") from None


@torch.no_grad()
def _add(model: QABertModel, adapter: dict[str, torch.Tensor], factor: float, where: str) -> None:
    layers = {name: layer for name, layer in model.encoder.named_modules() if isinstance(layer, torch.nn.Linear)}
    names = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in adapter}
    wanted = {f"{PREFIX}{name}.lora_{side}.weight" for name in names for side in "AB"}
    if not names or wanted != set(adapter) or not names <= set(layers):
        raise InputError(f"{where}: {WEIGHTS} doesn't fit the encoder: it has other layers")
    for name in sorted(names):
        down, up = (adapter[f"{PREFIX}{name}.lora_{side}.weight"] for side in "AB")
        weight = layers[name].weight
        if down.dim() != 2 or up.dim() != 2 or up.shape[1] != down.shape[0]:
            raise InputError(f"{where}: {WEIGHTS}: the two matrices of '{name}' don't fit each other")
        if (up.shape[0], down.shape[1]) != tuple(weight.shape):
            raise InputError(f"{where}: {WEIGHTS} doesn't fit the encoder: '{name}' has another size")
        weight += (up @ down) * factor
        if not torch.isfinite(weight).all():
            raise InputError(f"{where}: {WEIGHTS}: '{name}' holds what is no number")


def _digest(encoder: torch.nn.Module) -> str:
    """SHA-256 of an encoder's own weights, with or without adapters beside them."""
    digest = hashlib.sha256()
    for name, weights in sorted(encoder.named_parameters(), key=lambda item: item[0].replace(".base_layer.", ".")):
        if ".lora_" not in name:
            digest.update(name.replace(".base_layer.", ".").encode())
            digest.update(_plain(weights).numpy().tobytes())
    return digest.hexdigest()


def _plain(weights: torch.Tensor) -> torch.Tensor:
    return weights.detach().cpu().contiguous()


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
