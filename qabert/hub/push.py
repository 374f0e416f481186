"""Put a run's model on the hub: what may leave the machine, what to do when it doesn't arrive."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from pathlib import Path
from typing import Any

from qabert.checkpoints import CHECKSUMS, problem
from qabert.errors import InputError, RunError
from qabert.model_files import FILES, check_folder, read_json, tensor_shapes

#: Seconds before each further attempt, where the hub or the network may be back by then.
WAITS = (2, 8, 30)
#: What a run writes beside the model.
_RESULTS = ("README.md", "metrics.json", "predictions/*.csv")
_CODE = {path.name for path in (Path(__file__).parents[1] / "modeling").glob("[a-z]*.py")}
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
#: Files of words, in which a name of a folder is a word.
_WORDS = ("tokenizer.json", "vocab", "merges", "predictions/")


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    *,
    message: str = "Upload a model of qabert",
    waits: tuple[float, ...] | None = None,
) -> str:
    """Upload a finished run: the model with its code, tokenizer and card, `metrics.json` and predictions.

    What is there already and hasn't changed isn't sent again, and all of it arrives in one commit or none of it.
    Checkpoints, optimizer states and caches stay; a file that holds a token or a folder's name of this machine is an
    error, but for `metrics.json`, in which the folders' names are shortened to their last part.

    Args:
        folder: Folder that training wrote.
        repo_id: `owner/name`; the repository is made if there is none.
        private: Whether it is made a private one; None leaves that to the owner's settings.
        message: Of the commit.
        waits: Seconds to wait before each further attempt; `WAITS` if None.

    Returns:
        The model's address.

    Raises:
        InputError: A bad name, no model in the folder, no token, or a token that may not write there.
        RunError: The hub can't be reached or doesn't answer as it should.  Both messages name the command that goes on.
    """
    check_repo_id(repo_id)
    folder = Path(folder)
    files = files_to_push(folder, repo_id)
    try:
        return upload(files, repo_id, private, message, WAITS if waits is None else waits)
    except (InputError, RunError) as error:
        command = finishing_command(folder, repo_id, private)
        raise type(error)(f"{error}; {folder} stays as it is, and this command pushes it: {command}") from error


def upload(
    files: dict[str, Path | bytes], repo_id: str, private: bool | None, message: str, waits: tuple[float, ...]
) -> str:
    """Send what `files_to_push` found; as `push_to_hub`, but for the command in its messages."""
    check_token()
    for wait in (*waits, None):
        try:
            return _send(files, repo_id, private, message)
        except Exception as error:
            reason, transient = _reason(error, repo_id)
            if reason is None:
                raise
            if not transient or wait is None:
                kind = RunError if transient else InputError
                raise kind(f"the push to '{repo_id}' failed: {reason}") from error
            time.sleep(wait)
    raise AssertionError  # the last attempt has no wait


def finishing_command(folder: Path, repo_id: str, private: bool | None) -> str:
    """The command that pushes what is in the folder."""
    return shlex.join(["qabert", "push", str(folder), repo_id, *(["--private"] if private else [])])


def check_repo_id(repo_id: str, where: str = "the model's name on the hub") -> None:
    """Check a name without asking the hub.

    Raises:
        InputError: No repository can have it.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None
    if repo_id.count("/") != 1:
        raise InputError(f"{where}: '{repo_id}'; expected owner/name")


def check_token() -> None:
    """Check that there is a token to push with, without asking the hub.

    Raises:
        InputError: There is none, or the hub's client was told to stay offline.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set, so nothing can be pushed to the hub; unset it")
    if get_token() is None:
        raise InputError("no token for the hub: set HF_TOKEN, or log in with 'hf auth login'")


def _send(files: dict[str, Path | bytes], repo_id: str, private: bool | None, message: str) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="qabert")
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    api.create_commit(repo_id, operations, commit_message=message)
    return str(url)


def _reason(error: Exception, repo_id: str) -> tuple[str | None, bool]:
    """What went wrong (None: it is no matter of the hub or the network), and whether it may be right a little later."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError) and (status := getattr(error.response, "status_code", None)) is not None:
        said = " ".join((error.server_message or "").split())[:300]
        said = f" ({said})" if said else ""
        owner = repo_id.split("/")[0]
        if status == 401:
            return f"the hub doesn't take the token{said}: set HF_TOKEN anew, or log in with 'hf auth login'", False
        if status == 403:
            return (
                f"no permission: the token may not write to '{owner}'{said}; grant it, or take another",
                False,
            )
        if status == 404:
            return f"the hub knows no '{repo_id}', or the token may not see it{said}", False
        return f"the hub answered {status}{said}", status in (408, 409, 412, 429) or status >= 500
    client = type(error).__module__.split(".")[0] in ("httpx", "httpx2")  # whichever the hub's client uses
    if client or isinstance(error, ConnectionError | TimeoutError):
        return f"the hub can't be reached: {' '.join(str(error).split()) or type(error).__name__}", True
    if isinstance(error, json.JSONDecodeError):  # a proxy's page instead of an answer
        return "the hub's answer can't be read", True
    if isinstance(error, ValueError | OSError):
        return " ".join(str(error).split())[:500] or type(error).__name__, False
    return None, False


def files_to_push(folder: Path, repo_id: str | None = None) -> dict[str, Path | bytes]:
    """What goes to the hub, by its name there: a file, or its content where that is to be changed.

    Args:
        folder: A run's folder, or one with a model alone.
        repo_id: The name that the card's examples shall use.

    Raises:
        InputError: The folder holds no model of this package, a broken one, a link out of it, or a file with a token
            or with a name of this machine's folders.
    """
    where = f"model '{folder}'"
    if not (folder / "config.json").is_file():
        raise InputError(f"{where}: expected a folder with config.json, as training writes it")
    values = check_folder(folder, where)
    if not isinstance(values, dict) or values.get("model_type") != "qabert":
        raise InputError(f"{where}: config.json is of another package's model; expected one that qabert trained")
    tensor_shapes(folder, where)
    if (folder / CHECKSUMS).exists() and (found := problem(folder)) is not None:
        raise InputError(f"{where}: {found}; it isn't pushed like this")
    files: dict[str, Path | bytes] = {}
    for path in sorted({path for pattern in (*FILES, *_RESULTS) for path in folder.glob(pattern)}):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.suffix == ".part" or (path.suffix == ".py" and name not in _CODE):
            continue
        result = name in _RESULTS or name.startswith("predictions/")
        if result and not Path(os.path.realpath(path)).is_relative_to(folder.resolve()):
            raise InputError(f"{where}: {name} is a link out of the folder")
        files[name] = path
    if "metrics.json" in files:
        values = without_folders(read_json(folder / "metrics.json", where))
        files["metrics.json"] = json.dumps(values, indent=2, ensure_ascii=False).encode()
        if "README.md" in files and repo_id is not None:
            local = local_name(values["arguments"]["output_dir"]) if "arguments" in values else folder.name
            card = (folder / "README.md").read_text(encoding="utf-8")
            files["README.md"] = card.replace(json.dumps(local), json.dumps(repo_id)).encode()
    for name, content in files.items():
        if not name.endswith(".safetensors"):
            _check_private(name, content if isinstance(content, bytes) else content.read_bytes(), folder)
    return files


def _check_private(name: str, content: bytes, folder: Path) -> None:
    from huggingface_hub import get_token

    token = (get_token() or "").encode()
    names = {path for path in (Path.home(), Path.cwd(), folder.resolve()) if len(path.parts) > 1}
    paths = [] if name.startswith(_WORDS) else [f"{path.as_posix()}/".encode() for path in names]
    for number, line in enumerate(content.split(b"\n"), 1):
        what = "a token of the hub" if _TOKEN.search(line) or (token and token in line) else None
        if what is None and (found := next((path for path in paths if path in line), None)):
            what = f"a folder's name of this machine ({found.decode()})"
        if what is not None:
            raise InputError(f"model '{folder}': {name}, line {number} holds {what}; remove it, then push again")


def local_name(output_dir: str) -> str:
    """What a card calls a folder that isn't on the hub: as it was given, or its last part if that names the machine."""
    path = Path(output_dir)
    return path.name if path.is_absolute() or ".." in path.parts or output_dir.startswith("~") else path.as_posix()


#: A folder's absolute name inside a text; a blank ends it.
_FOLDERS = re.compile(r"(?<![\w./~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:()]+[/\\])+(?=[^\s/\\])")


def without_folders(values: Any) -> Any:
    """Values of a JSON file with the names of folders shortened to their last part."""
    if isinstance(values, dict):
        return {key: without_folders(value) for key, value in values.items()}
    if isinstance(values, list):
        return [without_folders(value) for value in values]
    if not isinstance(values, str):
        return values
    if (Path(values).is_absolute() or values.startswith(("~", ".."))) and "\n" not in values and Path(values).name:
        return local_name(values)
    return _FOLDERS.sub("", values)
