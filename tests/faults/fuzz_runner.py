"""Run fuzz cases through the real commands, each case in a forked process and a folder of its own, and judge them.

python tests/faults/fuzz_runner.py --templates FOLDER --seeds 0:5000 [--cases FILE.json] --out RESULTS.jsonl
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import faulthandler
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fuzz

ROOT = Path(__file__).parents[2]
#: Of the processor; on a busy machine a case may wait longer, but not for ever.
SECONDS, WAIT, MEGABYTES = 30, 150, 1000
#: What a message has to name, if none of the case's files and words: a flag, key, row, line, column, task, …
PLACE = re.compile(
    r"--\w|/|\b(key|keys|row|rows|line|column|task|tasks|arm|flag|sentence|device|seed|arguments?|plan|recipe|method|split"
    r"|model|max_length|output_dir)\b"
)


def build(case: Any, templates: Path, folder: Path) -> None:
    """Make the case's folder: copies of the templates, then its changes."""
    for name in ("data", "model", "encoder"):
        shutil.copytree(templates / name, folder / name)
    for name, change in case.files.items():
        path = folder / name
        before = path.read_bytes() if path.is_file() else b""
        path.unlink(missing_ok=True)
        if "text" in change:
            path.write_bytes(change["text"].encode())
        elif "base64" in change:
            path.write_bytes(base64.b64decode(change["base64"]))
        elif "edits" in change:
            path.write_bytes(fuzz.apply_edits(before, change["edits"]))
        elif "copy" in change:
            shutil.copyfile(templates / change["copy"], path)
        elif "folder" in change:
            path.mkdir()
        elif "link" in change:
            path.symlink_to(change["link"])
    (folder.parent / "stdin").write_bytes(base64.b64decode(case.stdin))


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def judge(case: Any, code: int, out: str, err: str, new: set[str]) -> str | None:
    """What is wrong with how a case ended, or None."""
    if "Traceback (most recent call last)" in out + err:
        return "traceback: " + ([line for line in err.splitlines() if line and line[0] not in " \t"] or ["?"])[-1][:300]
    if parts := [name for name in new if ".part" in name]:
        return f"partial output: {parts}"
    if code == 0:
        return None if "usage:" in out else incomplete(case, out, new)
    messages = [line for line in err.splitlines() if re.match(r"(\S+: )*error: ", line)]
    if len(messages) != 1:
        return f"exit {code} with {len(messages)} messages: {err[-300:]!r}"
    if code not in (1, 2):
        return f"exit {code}: {messages[0]}"
    message = err[err.index("error: ") :]
    ours = "usage: " not in err  # argparse repeats what was typed
    if ours and len(message) > 5000:
        return f"a message of {len(message)} characters: {message[:200]}"
    if ours and re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", message):
        return f"control characters in the message: {message[:200]!r}"
    names = {Path(name).name for name in case.files} | {word for word in case.argv if len(word) > 2}
    if not PLACE.search(message) and not any(name[:100] in message for name in names):
        return f"the message names no place: {message[:300]}"
    if code == 2 and new and case.command != "reproduce":
        return f"output after an error: {sorted(new)[:5]}: {message[:200]}"
    if code == 2 and "out/report.html" in new:
        return f"a report after an error: {message[:200]}"
    return None


def incomplete(case: Any, out: str, new: set[str]) -> str | None:
    """What a command that says it worked didn't write, or None."""
    ends = {Path(name).name for name in new}
    needed: dict[str, tuple[str, ...]] = {
        "train": ("metrics.json", "config.json", "model.safetensors", "tokenizer.json", "predictions"),
        "evaluate": ("metrics.json", "predictions") if "--output_dir" in case.argv else (),
        "reproduce": ("report.html", "report.md", "results.json", "metrics.json"),
    }
    if lacking := [name for name in needed.get(case.command, ()) if name not in ends]:
        return f"exit 0 without {lacking}"
    if case.command == "predict" and not new:
        try:
            if not (answers := [json.loads(line, parse_constant=_no_constant) for line in out.splitlines()]):
                return "exit 0 without an answer"
        except ValueError as error:
            return f"exit 0 with broken answers: {error}"
        if not all(isinstance(answer, dict) and {"label", "value"} & set(answer) for answer in answers):
            return f"exit 0 with broken answers: {answers[:2]}"
    return None if out.strip() or case.command == "explain" else "exit 0 without a word"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} in an answer")


def peak(reset: bool = False) -> float:
    """Peak resident memory in MB."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


class ForkedArm:
    """`subprocess.Popen` of a reproduction's run, without the seconds that a new interpreter takes to import torch."""

    def __init__(self, command: list[str], *, env: dict[str, str], **_: Any) -> None:
        read, write = os.pipe()
        self.code: int | None = None
        self.pid = os.fork()
        if not self.pid:
            from qabert.cli import main

            os.dup2(write, 1)
            os.dup2(write, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            leave(lambda: main(command[command.index("qabert") + 1 :]))
        os.close(write)
        self.stdout = os.fdopen(read, encoding="utf-8", errors="replace")

    def poll(self) -> int | None:
        return self.code

    def wait(self) -> int:
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and was waited for
            os.kill(self.pid, 15)


def leave(command: Any) -> None:
    """Run a command and end the process as the interpreter would, without its clean-up."""
    code = 0
    try:
        command()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def child(case: Any, place: Path) -> None:
    """Become the command: standard streams are files, time and memory are limited."""
    folder = place / "case"
    os.chdir(folder)
    for number, (name, mode) in enumerate(
        (("stdin", os.O_RDONLY), *[(n, os.O_WRONLY | os.O_CREAT) for n in ("out", "err")])
    ):
        os.dup2(os.open(place / name, mode), number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(0, closefd=False),
        os.fdopen(1, "w", closefd=False),
        os.fdopen(2, "w", errors="backslashreplace", closefd=False),
    )
    sys.argv = [str(ROOT / "scripts" / f"{case.command}.py")]
    log = os.fdopen(os.open(place / "hang", os.O_WRONLY | os.O_CREAT), "w")
    faulthandler.enable(log)
    faulthandler.dump_traceback_later(WAIT, exit=True, file=log)
    faulthandler.register(signal.SIGXCPU, log, chain=True)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(
        resource.RLIMIT_DATA, (used + 4_000_000_000,) * 2
    )  # not the whole machine's, if a case asks for it
    from qabert import cli
    from qabert.training import reproduce

    reproduce.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": ForkedArm})  # type: ignore[assignment]
    before = peak(reset=True)
    try:
        getattr(cli, f"{case.command}_main")(case.argv)
    finally:
        (place / "memory").write_text(str(peak() - before))


def run(case: Any, templates: Path, script: bool = False) -> dict[str, Any]:
    """Run one case and judge it.

    Returns:
        Its name, kind, exit status, seconds, megabytes, message, and `failure`: None, or what is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        place = Path(name)
        (place / "case").mkdir()
        build(case, templates, place / "case")
        before = listing(place / "case")
        start = time.perf_counter()
        hung, cpu = False, 0.0
        if script:
            words = [sys.executable, str(ROOT / "scripts" / f"{case.command}.py"), *case.argv]
            with (
                open(place / "stdin", "rb") as source,
                open(place / "out", "wb") as out,
                open(place / "err", "wb") as err,
            ):
                try:
                    code = subprocess.run(
                        words, cwd=place / "case", stdin=source, stdout=out, stderr=err, timeout=300
                    ).returncode
                except subprocess.TimeoutExpired:
                    code, hung = -1, True
        else:
            pid = os.fork()
            if not pid:
                leave(lambda: child(case, place))
            _, status, usage = os.wait4(pid, 0)
            code, cpu = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        seconds = time.perf_counter() - start
        texts = {
            name: (place / name).read_text(errors="replace") if (place / name).is_file() else ""
            for name in ("out", "err", "hang")
        }
        megabytes = float((place / "memory").read_text()) if (place / "memory").is_file() else 0.0
        failure = judge(case, code, texts["out"], texts["err"], listing(place / "case") - before)
        if texts["hang"] or hung:
            failure = ("hang or crash: " if code == 1 or hung else f"died of signal {-code}: ") + texts["hang"]
        elif code < 0:
            failure = f"died of signal {-code}"
        elif failure is None and megabytes > MEGABYTES:
            failure = f"{megabytes:.0f} MB: {texts['err'][-300:]}"
        result = {
            "name": case.name,
            "kind": case.kind,
            "command": case.command,
            "code": code,
            "seconds": round(seconds, 3),
            "cpu": round(cpu, 3),
        }
        result |= {"megabytes": round(megabytes), "failure": failure, "message": texts["err"][-3000:], "script": script}
        return result | ({"case": case.to_dict()} if failure else {})


def warm_up() -> None:
    """Import once what every case needs; compute nothing, because threads don't survive a fork."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["PYTHONPATH"] = str(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import transformers
    from transformers import AutoConfig, AutoModel, AutoTokenizer, Trainer  # noqa: F401
    from transformers.models.bert import modeling_bert  # noqa: F401

    import qabert.cli
    import qabert.evaluation.figures
    import qabert.evaluation.report.writing
    import qabert.evaluation.saliency.explanations
    import qabert.inference
    import qabert.submissions
    import qabert.training.run  # noqa: F401

    assert transformers.TrainingArguments
    fuzz.trainer_keys()


def chosen(args: argparse.Namespace) -> Iterator[Any]:
    if args.cases:
        for values in json.loads(Path(args.cases).read_text()):
            yield fuzz.Case(**values)
    first, last = map(int, args.seeds.split(":"))
    for seed in range(first, last):
        yield fuzz.case(seed, Path(args.templates))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--templates", required=True)
    parser.add_argument("--seeds", default="0:0")
    parser.add_argument("--only", type=lambda text: set(text.split(",")))
    parser.add_argument("--cases")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--scripts", type=int, default=0, help="run every so many-th case as a real process too")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    warm_up()
    templates = Path(args.templates).resolve()
    Path(args.out).write_bytes(b"")
    worker, workers = 0, []
    for number in range(1, args.workers):
        workers.append(os.fork())
        if not workers[-1]:
            worker, workers = number, []
            break
    file = os.open(args.out, os.O_WRONLY | os.O_APPEND)
    for number, case in enumerate(chosen(args)):
        if (args.only and case.name not in args.only) or number % args.workers != worker:
            continue
        results = [run(case, templates)]
        if args.scripts and number % args.scripts == args.scripts - 1:
            results.append(run(case, templates, script=True))
        for result in results:
            os.write(file, json.dumps(result).encode() + b"\n")
    for pid in workers:
        if os.waitpid(pid, 0)[1]:
            sys.exit(1)


if __name__ == "__main__":
    main()
