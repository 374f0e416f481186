"""Whether a model's files are what they should be, before anything is built of them: a stranger may have written them.

No code and no pickle of a checkpoint is run, no file outside of its folder is read, and nothing is built that is larger
than its weights' file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qabert.errors import InputError

if TYPE_CHECKING:
    from torch import nn

#: What transformers reads of a text encoder's folder; the same is fetched from the hub.  Code is fetched because
#: checksums.json lists that of our own models; it isn't run.
FILES = (
    *("config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors", "adapter_config.json"),
    *("tokenizer*", "vocab*", "merges.txt", "sp*.model", "sentencepiece*.model", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template*", "additional_chat_templates/*", "generation_config.json", "checksums.json"),
    "*.py",
)
#: Bytes of a file that is no weights.  The largest tokenizer.json in use, of 256,000 tokens, has about 35 MB.
MAX_BYTES = 64 * 2**20
MAX_DEPTH = 32
#: Some configurations write a list as long as the layers or labels while they are read, before any model is built.
MAX_NUMBER, MAX_LAYERS, MAX_LABELS = 2**31 - 1, 1024, 100_000
#: Numbers in tables that no file holds, such as 0, 1, 2, … for the positions.
MAX_COMPUTED = 2**24

Shapes = dict[str, tuple[int, ...]]


def local_folder(name: str, files: Sequence[str] = FILES) -> Path:
    """The folder of a model: itself, or the hub's cache, into which these files are fetched.

    Raises:
        OSError: No such repository on the hub, or no network.
        ValueError: No folder, and no name that a repository can have.
    """
    if Path(name).exists():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(files)))


def check_folder(folder: Path, where: str) -> dict[str, Any]:
    """Check what a model's folder links to and names, and return its `config.json`.

    Args:
        folder: The folder.
        where: How messages name the model, such as `model 'runs/demo'`.

    Raises:
        InputError: A file is a link out of the folder, too large or no JSON; or it names files or code elsewhere.
    """
    base = folder.resolve()
    roots = [base]
    if base.parent.name == "snapshots":  # the hub's cache keeps contents beside, in blobs/, and links to them
        roots.append(base.parent.parent / "blobs")
    for path in (path for pattern in FILES for path in folder.glob(pattern)):
        name = path.relative_to(folder)
        target = Path(os.path.realpath(path))  # unlike resolve, it doesn't raise at a link to itself
        if not any(target.is_relative_to(root) for root in roots):
            raise InputError(f"{where}: {name} is a link to {path.resolve()}, out of the model's folder")
        if path.suffix != ".safetensors" and path.is_file() and path.stat().st_size > MAX_BYTES:
            raise InputError(f"{where}: {name} has {path.stat().st_size:,} bytes; expected at most {MAX_BYTES:,}")
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{where}: adapter_config.json: an adapter names another model; 'qabert merge' makes a whole one"
        )
    values = read_json(folder / "config.json", where)
    for key, value in _entries(values):
        number = isinstance(value, int | float)
        limit = MAX_LABELS if key == "num_labels" else MAX_LAYERS if "layer" in key else MAX_NUMBER
        if number and (value != value or abs(value) > limit):
            raise InputError(f"{where}: config.json, '{key}' is {value}; expected a number of at most {limit:,}")
        if "attn_implementation" in key and isinstance(value, str) and "/" in value:
            raise InputError(f"{where}: config.json, '{key}' names code on the hub: '{value}'")
    for key in ("transformers_weights", "configuration_files"):
        if isinstance(values, dict) and values.get(key):
            raise InputError(f"{where}: config.json, '{key}' names other files: {str(values[key])[:80]}")
    if (folder / "tokenizer_config.json").exists():
        tokenizer = read_json(folder / "tokenizer_config.json", where)
        # transformers takes `vocab_file` and its like from the folder whatever stands here, but not these
        for key in ("init_inputs", "fast_tokenizer_files", "gguf_file", "vocab", "merges"):
            if isinstance(tokenizer, dict) and tokenizer.get(key):
                raise InputError(
                    f"{where}: tokenizer_config.json, '{key}' names other files: {str(tokenizer[key])[:80]}"
                )
    return values  # type: ignore[no-any-return]


def read_json(path: Path, where: str) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: It is missing, too large, too deep, or no JSON.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has over {MAX_BYTES:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        for _ in _entries(values):
            pass
    except RecursionError:
        problem = f"lists or objects more than {MAX_DEPTH} deep"
    except (OSError, ValueError) as error:
        problem = str(error)
    else:
        return values
    raise InputError(f"{where}: {path.name} can't be read: {problem}")


def _entries(values: Any) -> Iterator[tuple[str, Any]]:
    """Every key and plain value at any depth; the items of a list have the list's key."""
    level = [("", values)]
    for _ in range(MAX_DEPTH):
        below = []
        for key, value in level:
            if isinstance(value, dict):
                below += [(str(name), inner) for name, inner in value.items()]
            elif isinstance(value, list):
                below += [(key, inner) for inner in value]
            else:
                yield key, value
        level = below
    if level:
        raise ValueError(f"lists or objects more than {MAX_DEPTH} deep")


def tensor_shapes(folder: Path, where: str) -> Shapes:
    """Names and shapes of a model's weights, from the headers of its safetensors files; no weight is read.

    Opening a file checks its header: the offsets lie inside the file, don't overlap and fit shapes and types.

    Raises:
        InputError: There are no safetensors files, one is damaged, or the list of them names other files.
    """
    from safetensors import SafetensorError, safe_open

    names = ["model.safetensors"]
    if not (folder / names[0]).is_file():
        if not (folder / "model.safetensors.index.json").is_file():
            raise InputError(_no_weights(folder, where))
        index = read_json(folder / "model.safetensors.index.json", where)
        listed = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(listed, dict) or not listed:
            raise InputError(f"{where}: model.safetensors.index.json: expected 'weight_map', a file for each weight")
        names = sorted({str(name) for name in listed.values()})
    shapes: Shapes = {}
    for name in names:
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise InputError(
                f"{where}: model.safetensors.index.json names '{name[:80]}'; expected .safetensors files beside it"
            )
        if (folder / name).is_symlink():  # a shard of a name that check_folder doesn't know
            target = (folder / name).resolve()
            if target.parent not in (folder.resolve(), folder.resolve().parent.parent / "blobs"):
                raise InputError(f"{where}: {name} is a link to {target}, out of the model's folder")
        try:
            with safe_open(folder / name, framework="np") as file:
                for key in file.keys():  # noqa: SIM118 - no dictionary
                    shapes[key] = tuple(file.get_slice(key).get_shape())
        except (OSError, SafetensorError, OverflowError) as error:
            raise InputError(f"{where}: its weights can't be loaded: {name}: {error}") from None
    return shapes


def _no_weights(folder: Path, where: str) -> str:
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5"))
    problem = f"{where}: its weights can't be loaded: expected model.safetensors in {folder}"
    if not pickled:
        return problem + "; pickled weights (pytorch_model.bin) aren't loaded"
    return (
        f"{problem}, found {pickled[0]}; pickled weights can run code and aren't loaded. If you trust that file, "
        f"convert it: python -c \"from transformers import AutoModel; AutoModel.from_pretrained('{folder}')"
        f".save_pretrained('{folder}')\""
    )


def empty_model(build: Callable[[], nn.Module], shapes: Shapes, where: str) -> nn.Module:
    """A model without memory, to see its sizes; stopped where it grows beyond the file's weights.

    Args:
        build: Makes the model.
        shapes: The file's weights.
        where: How messages name the model.

    Raises:
        InputError: Its configuration describes more weights, or larger ones, than the file can hold.
    """
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook
    from transformers.initialization import no_init_weights

    made = 0
    limit = 4 * len(shapes) + 64  # transformers splits some tensors in three as it loads them
    problem = f"{where}: config.json and its weights don't fit: config.json describes"

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > limit:
            raise InputError(f"{problem} many more weights than the {len(shapes)} there are")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), no_init_weights():
            model = build()
    finally:
        hook.remove()
    kept = model.state_dict()
    held, wanted = (sum(map(prod, found)) for found in (shapes.values(), (value.shape for value in kept.values())))
    if wanted > 2 * held + 2**20:  # an encoder's file may lack a little that the encoder has
        raise InputError(f"{problem} {wanted:,} numbers, but they hold {held:,}")
    computed = sum(value.numel() for name, value in model.named_buffers() if name not in kept)
    if computed > MAX_COMPUTED:
        raise InputError(f"{problem} tables of {computed:,} numbers; expected at most {MAX_COMPUTED:,}")
    return model


def mismatched(model: nn.Module, shapes: Shapes) -> list[str]:
    """Names of weights that the file has in another shape; names that it lacks may be ones that loading renames."""
    own = model.state_dict()
    return sorted(name for name, shape in shapes.items() if name in own and tuple(own[name].shape) != shape)
