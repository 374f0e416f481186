"""What each tracker wrote, read back from its own files."""

import json
import struct
import sys
from pathlib import Path

import pytest

from qabert.errors import InputError, RunError
from qabert.training.recipes import from_keys
from qabert.training.run import train
from qabert.training.tracker_services import TRACKERS
from qabert.training.trackers import Trackers, tracked_names, tracker_names

NAMES = {
    "train/loss", "train/sts/loss", "train/learning_rate", "eval/sts/pearson", "eval/score", "eval/loss",
    "untrained/score", "final/score", "final/sst/accuracy",
}  # fmt: skip
STRAY = ("eval_", "untrained_", "final_", "train_", "test")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Every tracker's own place inside the test's folder, and no account anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for module in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, module)  # it reads its folder when it is imported
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "TENSORBOARD_LOGGING_DIR", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def keys(folder, encoder, output, **more):
    return {
        "data": str(folder), "encoder": encoder, "format": "joint", "max_length": 64, "head_blocks": 1,
        "output_dir": str(output), "use_cpu": True, "disable_tqdm": True, "num_train_epochs": 2, "logging_steps": 2,
        "per_device_train_batch_size": 16, "cache": False, **more,
    }  # fmt: skip


def event_values(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], list[str], dict]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}, tags["images"], tags


def wandb_records(folder: Path):
    """The records of a run that wandb kept offline: its file is a log of LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, place, whole = path.read_bytes(), 7, b""
    while place < len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_values(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], set, dict]:
    values: dict[str, list] = {}
    pictures = set()
    config: dict = {}
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "run":
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        line = {tuple(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for (key, *inner), value in line.items():
            if inner == ["_type"] and value == "image-file":
                pictures.add(key)
            elif not inner and not key.startswith("_"):
                values.setdefault(key, []).append((line[("train/global_step",)], value))
    return values, pictures, config


def test_every_tracker_holds_the_same_names_and_numbers(places, encoder_path, course_folder):
    output = places / "out"
    given = keys(course_folder, encoder_path, output, report_to=list(TRACKERS), score_untrained=True, run_name="first")
    result = train(from_keys(given))

    seen = {}
    seen["tensorboard"], images, tags = event_values(output / "tensorboard")
    assert {"figures/sst-confusion", "figures/sts-regression", "figures/quora-calibration"} <= set(images)
    assert "settings/text_summary" in tags["tensors"]

    seen["wandb"], pictures, config = wandb_values(places)
    assert {"figures/sst-confusion", "figures/history"} <= pictures
    assert config["format"] == "joint" and config["head_blocks"] == 1 and config["tasks"]["sts"]["range"] == [0, 5]

    import mlflow

    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("qabert").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params["format"] == "joint" and run.data.params["learning_rate"] == "5e-05"
    assert any(file.path == "figures/sst-confusion.png" for file in client.list_artifacts(run.info.run_id, "figures"))
    seen["mlflow"] = {
        key: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }

    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_run_config("qabert", "first")["format"] == "joint"
    seen["trackio"] = {}
    lines = SQLiteStorage.get_logs("qabert", "first")
    for line in lines:
        for key, value in line.items():
            if isinstance(value, float | int) and key != "step":
                seen["trackio"].setdefault(key, []).append((line["step"], value))
    assert any("figures/sst-confusion" in line for line in lines)

    scores = [entry["eval_score"] for entry in result["history"] if "eval_score" in entry]
    losses = [(entry["step"], entry["loss"]) for entry in result["history"] if "loss" in entry]
    for tracker, values in seen.items():
        assert set(values) >= NAMES, tracker
        assert not [key for key in values if key.startswith(STRAY)], tracker
        assert [step for step, _ in sorted(values["train/loss"])] == [step for step, _ in losses], tracker
        assert dict(values["train/loss"]) == pytest.approx(dict(losses)), tracker
        assert [value for _, value in sorted(values["eval/score"])] == pytest.approx(scores), tracker
        assert values["final/score"][0][1] == pytest.approx(result["score"]), tracker
        assert values["untrained/score"][0][0] == 0, tracker
    own = {"train/global_step", "hparam/final/score"}
    assert len({frozenset(set(values) - own) for values in seen.values()}) == 1


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_place(places, encoder_path, course_folder):
    report_to = ["tensorboard", "mlflow", "trackio"]
    given = keys(course_folder, encoder_path, places / "out", report_to=report_to, resume="auto")

    class Cut:
        """Breaks the run off after its first epoch's checkpoint."""

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

        def on_save(self, *args, **kwargs):
            raise RunError("cut")

    with pytest.raises(RunError, match="cut"):
        train(from_keys(given), [Cut()])
    import mlflow

    client = mlflow.MlflowClient()
    where = [client.get_experiment_by_name("qabert").experiment_id]
    assert [run.info.status for run in client.search_runs(where)] == ["FAILED"]
    train(from_keys(given))
    (run,) = client.search_runs(where)
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "eval/score")) == 2
    values, _, _ = event_values(places / "out" / "tensorboard")
    steps = [step for step, _ in values["train/loss"]]
    assert steps == sorted(set(steps)) and len(values["eval/score"]) == 2
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("qabert") == ["out"]


def test_a_tracker_that_fails_is_left_out(places, encoder_path, course_folder, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    given = keys(course_folder, encoder_path, places / "out", report_to="mlflow,tensorboard", num_train_epochs=1)
    train(from_keys(given))
    assert "warning: mlflow doesn't take this run any more" in capsys.readouterr().out
    assert "final/score" in event_values(places / "out" / "tensorboard")[0]


def test_names_of_logs():
    logs = {"loss": 1.0, "eval_x/loss": 2.0, "learning_rate": 0.1, "epoch": 1.0}  # a task named eval_x
    assert tracked_names(logs) == {
        "train/loss": 1.0, "train/eval_x/loss": 2.0, "train/learning_rate": 0.1, "train/epoch": 1.0,
    }  # fmt: skip
    assert tracked_names({"final_score": 1.0, "final_runtime": 3.0, "epoch": 2.0}) == {"final/score": 1.0}
    assert tracked_names({"train_loss": 1.0, "train_runtime": 3.0, "total_flos": 1.0}) == {"train/runtime": 3.0}


@pytest.mark.parametrize(
    ("report_to", "ours", "theirs"),
    [
        (None, [], []),
        ("none", [], []),
        ("wandb,tensorboard", ["wandb", "tensorboard"], []),
        (["mlflow", "comet_ml"], ["mlflow"], ["comet_ml"]),
        ("all", list(TRACKERS), []),
    ],
)
def test_chosen_trackers(report_to, ours, theirs):
    assert tracker_names(report_to) == (ours, theirs)


def test_a_tracker_that_cant_be_is_an_error_before_the_run(monkeypatch, course_folder):
    with pytest.raises(InputError, match=r"'report_to': unknown tracker 'tensorbord' \(did you mean 'tensorboard'"):
        from_keys({"data": str(course_folder), "report_to": "tensorbord"})
    monkeypatch.setattr(TRACKERS["trackio"], "package", "no_such_package")
    with pytest.raises(InputError, match=r"'trackio' needs .*pip install -e \"\.\[trackers\]\""):
        from_keys({"data": str(course_folder), "report_to": ["trackio"]})


def test_nothing_is_sent_where_there_are_no_names(tmp_path):
    args = from_keys({"output_dir": str(tmp_path), "use_cpu": True}).training_arguments()
    from transformers import TrainerControl, TrainerState

    trackers = Trackers([], args, tmp_path, {})
    with trackers:
        trackers.on_log(args, TrainerState(), TrainerControl(), {"loss": 1.0})
        trackers.on_train_begin(args, TrainerState(), TrainerControl())
        trackers.pictures(lambda folder: pytest.fail("drawn for nobody"))
    assert not list(tmp_path.iterdir())
