"""`scripts/benchmark.py`: parse, prepare, run every contender in a process of its own, round after round, report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qabert.benchmark.contenders import CONTENDERS, PARTS, chosen, missing
from qabert.cli.common import positive
from qabert.errors import InputError
from qabert.files import check_place, whole_file

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "sentence-transformers", "tasknet")


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description="Compare the speed of this package with its peers: the same rows, texts, weights and steps, each "
        "package in a process of its own, in turn and back again.",
        epilog="Contenders: " + ", ".join(CONTENDERS) + ".",
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, help="folder of the paper's tasks' files, 'hub' or 'demo'")
    parser.add_argument("--output_dir", required=True, help="where benchmark.json, .md, .png and .svg go")
    parser.add_argument("--encoder", default="minilm", help="'minilm', or folder or hub name of an encoder [minilm]")
    for name, default, text in (
        ("rows", 640, "training rows of all tasks, rounded to whole batches of each; as many dev rows are scored"),
        ("predict_rows", 2000, "sentences to predict, as far as there are so many"),
        ("batch_size", 32, "rows of a batch"),
        ("max_length", 128, "tokens that trainer-128 pads to; longer rows are left out"),
        ("rounds", 2, "how often each contender runs"),
        ("threads", None, "OMP_NUM_THREADS of the contenders; as it is if unset"),
    ):
        parser.add_argument(f"--{name}", type=positive, default=default, help=f"{text} [{default}]")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast for all")
    parser.add_argument("--attn_implementation", help="eager, sdpa, … for all; each chooses if unset")
    parser.add_argument("--contenders", default="", help="some of them: limit,qabert [all]")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure; an evaluation trains first [all]")
    return parser


def parse(argv: Sequence[str]) -> dict[str, Any]:
    """The command's values by name; `contenders` and `parts` as lists.

    Raises:
        InputError: A name that there isn't, a number that can't be, a place that can't be written.
    """
    values = vars(parser().parse_args(argv))
    for name in ("contenders", "parts"):
        values[name] = [word.strip() for word in values[name].split(",") if word.strip()]
    values["contenders"], values["parts"] = chosen(values["contenders"], values["parts"])
    check_place(Path(values["output_dir"]), folder=True)
    return values


def run(argv: Sequence[str]) -> dict[str, Any]:
    """Measure, write `benchmark.json`, `.md`, `.png` and `.svg`, print the table.

    Returns:
        What `benchmark.json` holds: `command`, `settings`, `machine`, `versions`, `rounds`, `summary`, `notes`.

    Raises:
        InputError: A flag, the encoder or the rows can't be used, or matplotlib isn't installed.
    """
    settings = parse(argv)
    from qabert.evaluation.figures.style import require_matplotlib, save_figure

    require_matplotlib()
    from qabert.benchmark.rows import prepare
    from qabert.benchmark.tables import markdown, speed_figure, summarise

    output = Path(settings["output_dir"])
    work = output / "work"
    if work.exists():
        raise InputError(f"{work}: is there; another benchmark writes to it, or one broke off: remove it")
    try:
        told = settings | prepare(settings, work)
        rounds = run_rounds(told, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    summary = summarise(rounds)
    result: dict[str, Any] = {
        "command": shlex.join(["python", "scripts/benchmark.py", *argv]),
        "settings": {key: told[key] for key in told if key not in ("tasks", "work", "encoder")}
        | {"encoder": settings["encoder"]},
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), **_machine(rounds)},
        "versions": {"python": platform.python_version(), **_versions()},
        "rounds": rounds,
        "summary": summary,
        "notes": notes(told, summary),
    }
    table = markdown(summary, heading(result), result["notes"])
    for name, text in (("benchmark.json", json.dumps(result, indent=2)), ("benchmark.md", table)):
        with whole_file(output / name) as file:
            file.write(text)
    save_figure(speed_figure(summary, settings["rounds"]), output, "benchmark")
    print(table)
    print(f"benchmark.json, .md, .png and .svg are in {output}")
    return result


def run_rounds(told: dict[str, Any], work: Path) -> list[dict[str, Any]]:
    """Every contender in turn, in every second round in the reverse order, so that a machine's drift cancels.

    Returns:
        For each round, by contender: `parts`, and `errors` by part.  Who fails isn't asked again.
    """
    jobs = [
        (name, parts)
        for name in told["contenders"]
        for group in (PARTS[:2], PARTS[2:])
        if (parts := [part for part in group if part in told["parts"] and part in CONTENDERS[name].parts])
    ]
    rounds: list[dict[str, Any]] = []
    failed: set[tuple[str, str]] = set()
    for number in range(told["rounds"]):
        rounds.append({})
        for name, parts in jobs if number % 2 == 0 else reversed(jobs):
            if (name, parts[0]) in failed:
                continue
            found = run_worker(told | {"contender": name, "parts": parts}, work)
            entry = rounds[-1].setdefault(name, {"parts": {}, "errors": {}})
            if "error" in found:
                failed.add((name, parts[0]))
                entry["errors"] |= dict.fromkeys(parts, found["error"])
            else:
                process = {key: found[key] for key in ("peak_memory", "gpu_peak_memory", "device", "threads")}
                entry["parts"] |= {part: found["parts"][part] | process for part in parts}
            rates = [
                f"{part} {entry['parts'][part]['examples_per_second']:.1f}/s" for part in parts if "error" not in found
            ]
            told_as = ", ".join(rates) or found["error"]
            print(f"round {number + 1} · {name} · {told_as}", file=sys.stderr, flush=True)
    return rounds


def run_worker(spec: dict[str, Any], work: Path) -> dict[str, Any]:
    """One contender's result, or `error`: the last line of what it said."""
    if (package := missing(spec["contender"])) is not None:
        return {"error": f"not installed: {package}"}
    result, told = work / "result.json", work / "spec.json"
    result.unlink(missing_ok=True)
    for folder in ("output", "cache"):
        shutil.rmtree(work / folder, ignore_errors=True)
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    quiet = {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    # A first run: rows that an earlier one has cached would hide what reading them takes.
    environment = {**os.environ, **quiet, "HF_DATASETS_CACHE": str(work / "cache")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if Path(spec["encoder"]).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if spec["threads"]:
        environment["OMP_NUM_THREADS"] = str(spec["threads"])
    told.write_text(json.dumps(spec | {"result": str(result), "started": time.time()}), encoding="utf-8")
    command = [sys.executable, "-m", "qabert.benchmark.worker", str(told)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode == 0 and result.is_file():
        return dict(json.loads(result.read_text(encoding="utf-8")))
    said = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    error = said[-1] if said and ended.returncode > 0 else f"ended with status {ended.returncode}"
    peer = CONTENDERS[spec["contender"]].package is not None
    return {"error": f"doesn't run on {_version('transformers')}: {error}" if peer else error}


def heading(result: Mapping[str, Any]) -> str:
    """What was run, on what."""
    settings, machine = result["settings"], result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"`{result['command']}`: encoder {settings['encoder']}, {settings['train_rows']} training rows in "
        f"{settings['steps']} steps, {settings['dev_rows']} dev rows, {settings['predict_rows']} sentences; "
        f"rounds: {settings['rounds']}; {machine['device']}, cores: {machine['cores']}, threads: {machine['threads']}; "
        f"{versions}."
    )


def notes(told: Mapping[str, Any], summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What has to be known to read the table."""
    measured = dict.fromkeys(name for rows in summary.values() for name in rows)
    return [
        "Every number is the median over the rounds, with the least and the most; shares of the limit are taken round "
        "by round.",
        "The same rows in the format qa (question and context as a pair), the same encoder weights, batches of "
        f"{told['batch_size']}, AdamW at 5e-5, weight decay 0.01, gradients clipped at 1, the encoder's own dropout.",
        "Training is timed from the first step's begin to the last step's end; start-up (imports, weights, "
        "tokenising; nothing cached) "
        "is the time from the process's start to the first step's end, or to the first answer.",
        "Rows and tokens are counted at the encoder's door; a contender that sees other numbers than it was asked "
        "counts as failed.  Peak memory is the process's, of training and evaluation together.",
        *(f"{name}: {CONTENDERS[name].what}." for name in measured),
    ]


def _machine(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Device and threads, as the first contender that ran saw them."""
    parts = [part for one in rounds for entry in one.values() for part in entry["parts"].values()]
    return {key: parts[0][key] if parts else None for key in ("device", "threads")}


def _versions() -> dict[str, str]:
    return {name: _version(name).removeprefix(f"{name} ") for name in PACKAGES if " " in _version(name)}


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name
