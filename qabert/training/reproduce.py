"""Arms over seeds, each in a process of its own, into one folder with a report.

```
OUT/reproduction.yaml            the plan
OUT/arms/ARM/seed-N.yaml         the recipe of one run, seed-N.log what it said
OUT/arms/ARM/seed-N/             the run: model, metrics.json, predictions/, questions.json, saliency.json
OUT/report.html  report.md  results.json  figures/
```

A run that is done is never done again; one that was cut off goes on from its newest checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from qabert.errors import InputError, unknown
from qabert.files import whole_file
from qabert.tasks import Task
from qabert.training.plans import Plan, changed_key
from qabert.yaml_files import read_yaml

#: Settings that don't change what a run computes (but for rounding), so a reproduction may change them underway.
_FREE = ("output_dir", "disable_tqdm", "report_to", "logging_steps", "dataloader_num_workers")
PLAN = "reproduction.yaml"


def reproduce(
    plan: Plan, output: Path, *, command: str, arms: Sequence[str] | None = None, jobs: int = 1
) -> list[Path]:
    """Train what isn't trained yet, measure it, and write the report.

    Args:
        plan: Arms, seeds and settings.
        output: Folder of the reproduction; one that was begun goes on.
        command: What the user typed, for the report.
        arms: Some of the plan's arms; None means all.
        jobs: Runs side by side, each on its share of the cores and, where there are several, on a GPU of its own.

    Returns:
        The report's files.

    Raises:
        InputError: The plan can't work, differs from the one that `output` holds, or a run failed.
    """
    from qabert.evaluation.figures import require_matplotlib
    from qabert.evaluation.report.writing import write_report

    require_matplotlib()  # now, not after hours of training
    for arm in arms or []:
        if arm not in plan.arms:
            raise unknown("arm", arm, plan.arms, "--arms")
    if not (output / PLAN).is_file() and output.is_dir() and any(path.name != "arms" for path in output.iterdir()):
        raise InputError(f"output_dir {output} holds other files and no {PLAN}; choose another folder")
    runs = [(arm, seed) for seed in plan.seeds for arm in plan.arms if arms is None or arm in arms]
    for arm, seed in runs:
        check_recipe(plan, arm, seed, output)
    rows = describe_rows(plan)
    write_plan(plan, output, command)
    for name, values in rows.items():
        with whole_file(output / name) as file:
            json.dump(values, file, ensure_ascii=False)
    jobs = min(jobs, len(runs))
    stop = threading.Event()
    failed: list[str] = []
    free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for slot in range(jobs):
        free.put(share_of_machine(slot, jobs))

    def work(position: int, arm: str, seed: int) -> None:
        if stop.is_set():
            return
        title = f"[{position}/{len(runs)}] {arm} seed {seed}"
        share = free.get()
        try:
            code = run_process(arm, seed, output, title, share, stop)
        finally:
            free.put(share)
        if code != 0 and not stop.is_set():
            stop.set()
            failed.append(f"{title}: {last_line(output / 'arms' / arm / f'seed-{seed}.log')}")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in [pool.submit(work, number, *run) for number, run in enumerate(runs, 1)]:
                future.result()
        except BaseException:
            stop.set()
            raise
    if failed:
        raise InputError(f"{failed[0]} (its log is beside its folder; the same command goes on from here)")
    return write_report(output)


def check_recipe(plan: Plan, arm: str, seed: int, output: Path) -> None:
    """Check one run's keys and teachers, and that a run already in its place has the same.

    Raises:
        InputError: They can't work, or differ.
    """
    folder = output / "arms" / arm / f"seed-{seed}"
    recipe = plan.recipe(arm, seed)
    path = folder.with_suffix(".yaml")
    if path.is_file():
        before = read_yaml(path)
        if (key := changed_key(before, recipe, _FREE)) is not None:
            raise InputError(
                f"arm '{arm}', seed {seed}: key '{key}' was {before.get(key)!r} in the run that {folder} holds and is "
                f"{recipe.get(key)!r} now: choose another --output_dir, or delete that run"
            )
    args = plan.arguments(arm, seed, folder)
    args.training_arguments()
    if args.teachers and not is_done(folder):
        from qabert.training.teachers import check_teachers

        try:
            check_teachers(args.teachers, args.load_tasks(), args.augment)
        except InputError as error:
            raise InputError(f"arm '{arm}': {error}") from None


def write_plan(plan: Plan, output: Path, command: str) -> None:
    """Write the plan, with the seeds of earlier calls kept, and every run's recipe.

    Raises:
        InputError: The folder can't be written.
    """
    seeds = list(plan.seeds)
    if (output / PLAN).is_file():
        seeds = sorted({*seeds, *read_yaml(output / PLAN).get("seeds", [])})
    try:
        with whole_file(output / PLAN) as file:
            values = {"command": command} | plan.to_dict() | {"seeds": seeds}
            yaml.safe_dump(values, file, sort_keys=False, allow_unicode=True)
        for arm in plan.arms:
            for seed in plan.seeds:
                path = output / "arms" / arm / f"seed-{seed}.yaml"
                with whole_file(path) as file:
                    recipe = plan.recipe(arm, seed) | {"output_dir": str(path.with_suffix(""))}
                    yaml.safe_dump(recipe, file, sort_keys=False, allow_unicode=True)
    except OSError as error:
        raise InputError(f"output_dir {output} can't be written: {error.strerror or error}") from None


def describe_rows(plan: Plan) -> dict[str, Any]:
    """The contents of `fingerprints.json` and of `rows.json`, the dev rows' texts by task and id.

    Raises:
        InputError: The rows can't be loaded.
    """
    from qabert.data.sources import load_data

    tasks, where = plan.tasks(), plan.settings.get("data")
    data = load_data(tasks, where, cache=True)
    fingerprints: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    for name, task in tasks.items():
        for split, rows in data[name].splits.items():
            digest = hashlib.sha256()
            for row in rows:
                digest.update(json.dumps([row[key] for key in ("id", "text_a", "text_b", "label")]).encode())
            entry = {"file": _source(task, split, where), "rows": len(rows), "sha256": digest.hexdigest()}
            fingerprints.setdefault(name, {})[split] = entry
        dev = data[name].splits["dev"]
        texts[name] = {row["id"]: [row["text_a"], row["text_b"]] for row in dev}
    return {"fingerprints.json": fingerprints, "rows.json": texts}


def _source(task: Task, split: str, where: Any) -> str:
    return str(where) if where in ("hub", "demo") or split not in task.files else Path(task.files[split]).name


def share_of_machine(slot: int, jobs: int) -> dict[str, str]:
    """Environment of one of several processes side by side: a share of the cores, a GPU of its own if there are some.

    Threads of two processes that share cores wait for each other: each gets as many as it has cores.
    """
    if jobs == 1:
        return {}
    share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // jobs, 1)))}
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        devices = [str(number) for number in range(torch.cuda.device_count())]
    else:
        devices = [name for name in named.split(",") if name.strip()]
    return share | ({"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else {})


def run_process(arm: str, seed: int, output: Path, title: str, share: Mapping[str, str], stop: threading.Event) -> int:
    """Run one arm with one seed in a process of its own; its words go to its log, the telling ones also to the screen.

    Returns:
        Its exit status.
    """
    folder = output / "arms" / arm / f"seed-{seed}"
    if is_done(folder):
        print(f"{title}: done before", flush=True)
    environment = {**os.environ, **share, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "qabert", "arm", str(output), arm, str(seed)]
    with folder.with_suffix(".log").open("a", buffering=1, encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        watch = threading.Thread(target=_end, args=(process, stop), daemon=True)
        watch.start()
        for line in process.stdout:
            log.write(line)
            # The bars of a data set's map start with its name, "triplet sentences" too.
            if "%|" not in line and line.startswith(("eval ·", "final ·", "triplet", "measured", "going on", "error")):
                print(f"{title} · {line.rstrip()}", flush=True)
        return process.wait()


def _end(process: subprocess.Popen[str], stop: threading.Event) -> None:
    """End the process when the others are to stop; it has its checkpoints."""
    while process.poll() is None:
        if stop.wait(0.5):
            process.terminate()
            return


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"


def is_done(folder: Path) -> bool:
    """Whether a run is trained; `metrics.json` is what training writes last."""
    return (folder / "metrics.json").is_file()


def run_arm(output: Path, arm: str, seed: int) -> None:
    """Train one arm with one seed if that isn't done, then measure what the plan asks for and isn't measured.

    Raises:
        InputError: The run can't work, or another process is at it.
    """
    from filelock import FileLock, Timeout

    values = read_yaml(output / PLAN)
    values.pop("command")
    plan = Plan(**values)
    folder = output / "arms" / arm / f"seed-{seed}"
    try:
        # The lock goes with its process, however that ends.
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            if not is_done(folder):
                from qabert.training.run import train

                args = plan.arguments(arm, seed, folder)
                args.resume = "auto"
                args.trainer.setdefault("disable_tqdm", True)
                train(args)
            for checkpoint in folder.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
            _measure(plan, arm, folder)
    except Timeout:
        raise InputError(f"arm '{arm}', seed {seed}: another process is training it") from None


def _measure(plan: Plan, arm: str, folder: Path) -> None:
    keys = {**plan.settings, **plan.arms[arm]}
    questions = folder / "questions.json"
    asked = plan.questions and keys.get("format", "qa") == "qa" and "question" not in plan.arms[arm]
    saliency = folder / "saliency.json"
    shown = arm in (plan.saliency.get("arms") or [])
    if (not asked or questions.is_file()) and (not shown or saliency.is_file()):
        return
    from qabert.data.sources import load_data
    from qabert.inference import Predictor

    dev = {
        name: data.splits["dev"]
        for name, data in load_data(plan.tasks(), keys.get("data"), ("dev",), cache=True).items()
    }
    predictor = Predictor.from_pretrained(str(folder), "cpu" if keys.get("use_cpu") else None)
    if asked and not questions.is_file():
        from qabert.evaluation.questions import ask

        _write(questions, ask(predictor, dev, plan.questions, plan.question_rows))
        print("measured: the answers to other questions")
    if shown and not saliency.is_file():
        from qabert.evaluation.questions import sample
        from qabert.evaluation.saliency.explanations import saliency_summary

        summaries = {}
        for name, rows in dev.items():
            chosen = sample(rows, plan.saliency.get("rows") or 100)
            texts = [(row["text_a"], row["text_b"]) for row in chosen]
            summaries[name] = saliency_summary(predictor, name, texts)
        _write(saliency, summaries)
        print("measured: saliency")


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        json.dump(values, file, indent=2, ensure_ascii=False)
