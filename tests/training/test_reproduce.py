"""A reproduction with real processes: it runs, goes on where it was killed, and refuses what would mix runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def plan(tmp_path_factory, encoder_path, course_folder) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    settings = {
        "data": str(course_folder), "encoder": encoder_path, "max_length": 128, "head_blocks": 1, "use_cpu": True,
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "logging_steps": 5, "prior_correction": False,
    }  # fmt: skip
    arms = {
        "baseline": {"format": "separate", "weighted_sampling": False},
        "qa": {"format": "qa"},
        "qa_other": {"format": "qa", "question": "other"},
    }
    values = {"settings": settings, "arms": arms, "seeds": [1], "compare": [["baseline", "qa"]], "question_rows": 9}
    values |= {"questions": {"other": {"sst": "Is it a duplicate?"}}, "saliency": {"rows": 3, "arms": ["qa"]}}
    path.write_text(yaml.safe_dump(values))
    return path


def command(plan: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "scripts/reproduce.py", str(plan), "--output_dir", str(output), *more]


def run(plan: Path, output: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(plan, output, *more), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    output = tmp_path_factory.mktemp("reproduction") / "out"
    return output, run(plan, output, "--jobs", "2")


def test_every_arm_is_trained_and_reported(done):
    output, process = done
    assert process.returncode == 0, process.stderr
    for name in ("report.md", "report.html", "results.json", "fingerprints.json", "rows.json", "reproduction.yaml"):
        assert (output / name).is_file()
        assert (output / name).suffix in (".yaml", ".json") or str(output / name) in process.stdout
    for arm in ("baseline", "qa", "qa_other"):
        folder = output / "arms" / arm / "seed-1"
        assert (folder / "model.safetensors").is_file() and not list(folder.glob("checkpoint-*"))
        assert f"{arm} seed 1 · final ·" in process.stdout
    recorded = yaml.safe_load((output / "reproduction.yaml").read_text())
    assert recorded["command"].startswith("python scripts/reproduce.py") and "--jobs 2" in recorded["command"]


def test_arms_differ_in_what_the_plan_says(done):
    output, _ = done
    arguments = {
        arm: json.loads((output / "arms" / arm / "seed-1" / "metrics.json").read_text())["arguments"]
        for arm in ("baseline", "qa", "qa_other")
    }
    assert arguments["baseline"]["format"] == "separate" and not arguments["baseline"]["weighted_sampling"]
    assert arguments["qa_other"]["tasks"]["sst"]["question"] == "Is it a duplicate?"
    differing = {key for key in arguments["qa"] if arguments["qa"][key] != arguments["qa_other"][key]}
    assert differing == {"tasks", "output_dir"}


def test_other_questions_are_asked_of_the_arm_with_its_own(done):
    output, _ = done
    asked = json.loads((output / "arms" / "qa" / "seed-1" / "questions.json").read_text())
    assert list(asked) == ["own", "other"]
    assert asked["own"]["sst"]["rows"] == 9
    assert asked["own"]["quora"] == asked["other"]["quora"]  # the variant names sst alone
    assert not (output / "arms" / "qa_other" / "seed-1" / "questions.json").exists()
    assert not (output / "arms" / "baseline" / "seed-1" / "questions.json").exists()
    assert (output / "arms" / "qa" / "seed-1" / "saliency.json").is_file()


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(done, plan):
    output, _ = done
    metrics = output / "arms" / "qa" / "seed-1" / "metrics.json"
    before = metrics.stat().st_mtime_ns
    again = run(plan, output, "--arms", "qa")
    assert again.returncode == 0, again.stderr
    assert "qa seed 1: done before" in again.stdout and metrics.stat().st_mtime_ns == before
    other = run(plan, output, "--learning_rate", "0.1")
    assert other.returncode == 2
    assert "arm 'baseline', seed 1: key 'learning_rate' was None" in other.stderr and "is 0.1 now" in other.stderr


@pytest.mark.slow
def test_a_killed_reproduction_goes_on(plan, tmp_path):
    output = tmp_path / "out"
    first = output / "arms" / "baseline" / "seed-1" / "metrics.json"
    second = output / "arms" / "qa" / "seed-1"
    process = subprocess.Popen(
        command(plan, output, "--arms", "baseline,qa"),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 200
    while not list(second.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert first.is_file() and not (second / "metrics.json").is_file()
    before = first.stat().st_mtime_ns
    again = run(plan, output, "--arms", "baseline,qa")
    assert again.returncode == 0, again.stderr
    assert "baseline seed 1: done before" in again.stdout and first.stat().st_mtime_ns == before
    assert "going on from" in again.stdout
    assert (second / "metrics.json").is_file() and (output / "report.html").is_file()


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_ends_the_reproduction(plan, tmp_path):
    values = yaml.safe_load(plan.read_text())
    values["arms"] = {"long": {"max_length": 4096}, "qa": {"format": "qa"}}
    values |= {"compare": [], "saliency": {}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(values))
    process = run(tmp_path / "plan.yaml", tmp_path / "out")
    assert process.returncode == 2
    assert "error: [1/2] long seed 1: max_length 4096 is over" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "out" / "arms" / "qa" / "seed-1" / "metrics.json").exists()


def test_two_processes_do_not_train_one_run(done):
    output, _ = done
    with FileLock(output / "arms" / "qa" / "seed-1.lock"):
        process = subprocess.run(
            [sys.executable, "-m", "qabert", "arm", str(output), "qa", "1"],
            cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
    assert process.returncode == 2 and "another process is training it" in process.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arms", "qaa"], "unknown arm 'qaa' (did you mean 'qa'?)"),
        (["--learning_rte", "1"], "arm 'baseline': unknown key 'learning_rte'"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--format", "qa"], "key 'format' is what the arm 'baseline'"),
        (["--seeds", "1,1"], "key 'seeds'"),
        (["--teachers", "sst=nowhere"], "arm 'baseline': model 'nowhere'"),
    ],
)
def test_bad_input_ends_before_anything_is_written(plan, tmp_path, capsys, more, message):
    from qabert.cli import reproduce_main

    with pytest.raises(SystemExit) as stop:
        reproduce_main([str(plan), "--output_dir", str(tmp_path / "out"), *more])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(plan, tmp_path, capsys):
    from qabert.cli import reproduce_main

    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(SystemExit):
        reproduce_main([str(plan), "--output_dir", str(tmp_path)])
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_plan_is_said(capsys):
    from qabert.cli import reproduce_main

    with pytest.raises(SystemExit):
        reproduce_main(["--seeds", "1"])
    assert "give a plan first" in capsys.readouterr().err


def test_runs_side_by_side_share_cores_and_gpus(monkeypatch):
    from qabert.training.reproduce import share_of_machine

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert share_of_machine(0, 1) == {}
    assert [share_of_machine(slot, 3) for slot in range(3)] == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": device} for device in ("3", "5", "3")
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert share_of_machine(0, 2) == {"OMP_NUM_THREADS": "4"}
