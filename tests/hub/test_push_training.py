"""Pushing in and after a training; loading what was pushed."""

from __future__ import annotations

import json
import re
import shutil
import threading
from types import SimpleNamespace

import pytest
from server import Hub

from qabert.checkpoints import problem
from qabert.errors import InputError
from qabert.hub import callback
from qabert.training.recipes import from_keys, parse
from qabert.training.run import train as run

NAME = "owner/demo"
#: `qabert train`, without the waits between attempts to push.
TRAIN = "import sys; from qabert.hub import push; push.WAITS = (0.1,); from qabert.cli import run; run('train')"
TO_HUB = ["--push_to_hub", "true", "--hub_model_id", NAME]
#: The logits of a row, by AutoModel with this package, or with the package hidden and the code beside the weights.
LOGITS = """
import sys
hidden, *places = sys.argv[1:]
if hidden == "hidden":
    class Hide:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "qabert":
                raise ModuleNotFoundError("qabert is hidden", name="qabert")
    sys.meta_path.insert(0, Hide())
else:
    import qabert
trust = {"trust_remote_code": True} if hidden == "hidden" else {}
from transformers import AutoModel, AutoTokenizer
for place in places:
    model, tokenizer = (kind.from_pretrained(place, **trust) for kind in (AutoModel, AutoTokenizer))
    inputs = tokenizer("ab cd?", "ef gh ij.", return_tensors="pt")
    print([model(**inputs, task=task).logits.tolist() for task in ("sst", "sts", "quora")])
assert ("qabert" in sys.modules) != (hidden == "hidden")
if hidden != "hidden":
    for place in places:
        print(list(qabert.Predictor.from_pretrained(place, "cpu").predict("sts", [("ab cd", "ef gh")])))
"""


def train(python, hub, words, output, *more, **settings):
    return python(hub, "-c", TRAIN, *words, "--output_dir", output, "--seed", "7", *TO_HUB, *more, **settings)


def test_what_is_pushed_loads_by_name_to_the_last_bit(finished, hub, python):
    assert python(hub, "-m", "qabert", "push", finished, NAME).returncode == 0
    package, hidden = (
        python(hub, "-c", LOGITS, how, *places) for how, *places in (("package", finished, NAME), ("hidden", NAME))
    )
    assert package.returncode == 0, package.stderr
    assert hidden.returncode == 0, hidden.stderr
    folder, name, *answers = package.stdout.splitlines()
    assert folder == name == hidden.stdout.strip() and folder.startswith("[[[")
    assert len(answers) == 2 and answers[0] == answers[1] and "value" in answers[0]


def test_pushes_during_training_wait_for_nothing_and_change_nothing(training_words, tmp_path, python):
    words = [*training_words, "--save_strategy", "steps", "--eval_strategy", "steps", "--eval_steps", "2"]
    words += ["--save_steps", "2", "--save_total_limit", "1", "--seed", "7"]
    # The first push is refused, the second one held up.
    with Hub(tmp_path / "hub", {"commit": ["503", "wait1"]}) as hub:
        done = train(python, hub, words, tmp_path / "run", "--hub_strategy", "every_save", "--hub_private_repo", "true")
        assert done.returncode == 0, done.stderr
        assert hub.repos[NAME]["private"] and done.stdout.strip().splitlines()[-1] == f"pushed to {hub.url}/{NAME}"
        assert "warning: step 2: the push to 'owner/demo' failed: the hub answered 503 (planned 503)" in done.stdout
        commits = hub.repos[NAME]["commits"]
        assert commits[-1] == "Upload a model of qabert" and commits[0].startswith("Training in progress, step")
        first = hub.steps("commit")[1]
        assert set(first) >= {"model.safetensors", "config.json", "tokenizer.json", "modeling_qabert.py"}
        assert not [name for name in first if re.search(r"optimizer|process|state|metrics|README", name)]
        hub.shutdown()
    run(parse([*words, "--output_dir", str(tmp_path / "alone")]))
    ours, alone = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "alone"))
    assert ours == alone
    assert not (tmp_path / "run" / ".push.part").exists() and problem(tmp_path / "run") is None


def test_one_push_at_a_time_of_files_that_outlive_their_checkpoint(finished, tmp_path, monkeypatch):
    begun, go, sent = threading.Event(), threading.Event(), []

    def upload(files, repo_id, private, message, waits):
        begun.set()
        assert go.wait(60)
        sent.append((message, sorted(files), files["model.safetensors"].read_bytes()))

    monkeypatch.setattr(callback, "upload", upload)
    for step in (1, 2, 3):
        shutil.copytree(finished, tmp_path / f"checkpoint-{step}", ignore=shutil.ignore_patterns("README.md", "pred*"))
        (tmp_path / f"checkpoint-{step}" / "optimizer.safetensors").write_bytes(b"never sent")
    args, state = SimpleNamespace(output_dir=tmp_path), SimpleNamespace(is_world_process_zero=True, global_step=1)
    pushes = callback.PushCheckpoints(NAME)
    pushes.on_save(args, state, None)
    assert begun.wait(60)
    state.global_step, first = 2, pushes.thread
    pushes.on_save(args, state, None)  # not while the first one is under way
    assert pushes.thread is first
    shutil.rmtree(tmp_path / "checkpoint-1")
    go.set()
    pushes.finish()
    state.global_step = 3
    pushes.on_save(args, SimpleNamespace(is_world_process_zero=False, global_step=4), None)
    pushes.on_save(args, state, None)
    pushes.finish()
    assert [message for message, *_ in sent] == ["Training in progress, step 1", "Training in progress, step 3"]
    assert sent[0][2] == (finished / "model.safetensors").read_bytes()
    assert "checksums.json" in sent[0][1] and "optimizer.safetensors" not in sent[0][1]
    assert not (tmp_path / ".push.part").exists()


def test_a_push_that_fails_at_the_end_leaves_the_model_and_a_command(training_words, tmp_path, python):
    with Hub(tmp_path / "hub", {"create": ["503", "503"]}) as hub:
        failed = train(python, hub, training_words, tmp_path / "run")
        assert failed.returncode == 1
        assert failed.stderr.strip().endswith(f"this command pushes it: qabert push {tmp_path / 'run'} {NAME}")
        assert problem(tmp_path / "run") is None and json.loads((tmp_path / "run" / "metrics.json").read_text())
        again = train(python, hub, training_words, tmp_path / "run", "--resume", "auto")
        assert again.returncode == 0, again.stderr
        assert "is complete: pushing it" in again.stdout
        assert f'Predictor.from_pretrained("{NAME}")' in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
        assert "model.safetensors" in hub.files(NAME)
        hub.shutdown()


def test_without_a_way_to_push_no_training_starts(training_words, tmp_path):
    args = parse([*training_words, *TO_HUB, "--output_dir", str(tmp_path / "run")])
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set, so nothing can be pushed"):  # as in all tests here
        run(args)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"push_to_hub": True}, "set 'hub_model_id' to owner/name"),
        ({"push_to_hub": True, "hub_model_id": "demo"}, "key 'hub_model_id': 'demo'; expected owner/name"),
        ({"push_to_hub": True, "hub_model_id": "a/b/c"}, "key 'hub_model_id': Repo id must be"),
        ({"hub_model_id": NAME}, "key 'hub_model_id' is of 'push_to_hub': set that too"),
        ({"push_to_hub": True, "hub_model_id": NAME, "hub_strategy": "checkpoint"}, "unknown value 'checkpoint'"),
        (
            {"push_to_hub": True, "hub_model_id": NAME, "hub_strategy": "every_save", "save_strategy": False},
            "with 'save_strategy: no' there is nothing to push before the end",
        ),
        ({"hub_token": "x"}, "key 'hub_token' is set by this package"),
        ({"hub_revision": "x"}, "key 'hub_revision' is set by this package"),
    ],
)
def test_mistakes_are_found_before_anything_starts(keys, says):
    with pytest.raises(InputError, match=re.escape(says)):
        from_keys({"data": "demo"} | keys)
