"""`qabert push` against a hub on this machine that speaks with the unmodified client."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml
from server import TOKEN, Hub

from qabert.errors import InputError
from qabert.hub.push import files_to_push, local_name, push_to_hub, without_folders

NAME = "owner/demo"
#: Without the waits between attempts, which a test has no time for.
QUICK = "import sys; from qabert.hub import push; push.push_to_hub(sys.argv[1], sys.argv[2], waits=(0.1, 0.1))"


def push(python, hub, folder, *words, **more):
    return python(hub, "-m", "qabert", "push", folder, *(words or [NAME]), **more)


def test_a_push_sends_the_model_and_nothing_that_should_stay(run_folder, hub, python):
    (run_folder / ".lock").touch()
    (run_folder / "notes.txt").write_text("mine")
    (run_folder / "own.py").write_text("print('mine')")
    (run_folder / "model.safetensors.part").write_bytes(b"half")
    done = push(python, hub, run_folder, NAME, "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/{NAME}"
    files = hub.files(NAME)
    assert set(files) == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "checksums.json"),
        *("README.md", "metrics.json", "predictions/sst-dev.csv", "predictions/sts-dev.csv"),
        "predictions/quora-dev.csv",
        *(f"{name}.py" for name in ("modeling_qabert", "configuration_qabert", "attention", "dropout", "heads")),
        *(f"{name}.py" for name in ("first_token", "linear", "losses")),
    }
    assert hub.repos[NAME]["private"] is True
    assert files["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    for name, content in files.items():
        if name != "model.safetensors":
            assert TOKEN.encode() not in content
            assert str(run_folder.parent).encode() not in content
            assert b"/tmp/" not in content or name == "tokenizer.json", name
    held = json.loads(files["metrics.json"])
    assert held["arguments"]["output_dir"] == "demo"
    assert held["arguments"]["encoder"].startswith("encoder") and "/" not in held["arguments"]["encoder"]
    assert held["scores"] == json.loads((run_folder / "metrics.json").read_text())["scores"]
    card = files["README.md"].decode()
    assert f'from_pretrained("{NAME}")' in card and '"demo"' not in card
    assert hub.steps("validate")[0] == yaml.safe_load(card.split("---\n")[1])
    assert TOKEN not in done.stdout + done.stderr


def test_what_has_not_changed_is_not_sent_again(run_folder, hub, python):
    assert push(python, hub, run_folder).returncode == 0
    sent = len(hub.steps("put"))
    assert push(python, hub, run_folder).returncode == 0
    card = run_folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\nMine.\n", encoding="utf-8")
    assert push(python, hub, run_folder).returncode == 0
    assert [len(names) for names in hub.steps("commit")][1:] == [1]
    assert hub.steps("commit")[-1] == ["README.md"]
    assert len(hub.steps("put")) == sent


def test_a_hub_that_dies_and_the_command_that_ends_the_push(run_folder, tmp_path, python):
    with Hub(tmp_path / "hub", {"commit": ["die"]}) as first:
        failed = python(first, "-c", QUICK, run_folder, NAME)
        assert first.steps("commit") == ["die"] and len(first.steps("put")) == 4
    assert "qabert.errors.RunError" in failed.stderr and "the hub can't be reached" in failed.stderr
    assert first.repos[NAME]["files"] == {}  # all in one commit or nothing
    command = shlex.split(failed.stderr.strip().split("this command pushes it: ")[-1])
    assert command == ["qabert", "push", str(run_folder), NAME]
    with Hub(tmp_path / "hub") as second:
        done = python(second, "-m", *command)
        assert done.returncode == 0, done.stderr
        assert second.steps("put") == []  # what had arrived isn't sent again
        assert second.files(NAME)["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
        second.shutdown()


@pytest.mark.parametrize("step", ["create", "preupload", "commit", "validate"])
def test_a_hub_in_trouble_is_asked_again(step, run_folder, tmp_path, python):
    with Hub(tmp_path / "hub", {step: ["503"]}) as hub:
        done = python(hub, "-c", QUICK, run_folder, NAME)
        assert done.returncode == 0, done.stderr
        assert hub.log.count((step, 503)) == 1 and "model.safetensors" in hub.files(NAME)
        hub.shutdown()


@pytest.mark.parametrize(
    ("words", "more", "code", "says"),
    [
        ([NAME], {"token": None}, 2, "no token for the hub: set HF_TOKEN, or log in"),
        ([NAME], {"token": "hf_" + "b" * 34}, 2, "the hub doesn't take the token"),
        (["other/demo"], {}, 2, "no permission: the token may not write to 'other' (You don't have the rights"),
        ([NAME], {"HF_HUB_OFFLINE": "1"}, 2, "HF_HUB_OFFLINE is set"),
        (["demo"], {}, 2, "the model's name on the hub: 'demo'; expected owner/name"),
        (["owner/de--mo"], {}, 2, "Cannot have -- or .. in repo_id"),
    ],
)
def test_messages_of_what_waiting_does_not_mend(words, more, code, says, run_folder, hub, python):
    done = push(python, hub, run_folder, *words, **more)
    assert done.returncode == code and says in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "hf_bbbb" not in done.stderr
    if "expected" not in says and "Cannot" not in says:
        assert f"this command pushes it: qabert push {run_folder} {words[0]}" in done.stderr
    assert not any("files" in repo and repo["files"] for repo in hub.repos.values())


def test_no_network(run_folder, python):
    done = python("http://127.0.0.1:9", "-c", QUICK, run_folder, NAME)
    assert "RunError: the push to 'owner/demo' failed: the hub can't be reached" in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("README.md", "token: hf_" + "x" * 34, "README.md, line 1 holds a token"),
        ("README.md", "one\n{folder}/data", "README.md, line 2 holds a folder's name of this machine"),
        ("modeling_qabert.py", "# changed", "modeling_qabert.py has 9 bytes"),
        ("config.json", '{"model_type": "bert"}', "another package's model"),
    ],
)
def test_what_should_not_leave_the_machine_is_found(name, text, says, run_folder):
    (run_folder / name).write_text(text.replace("{folder}", str(run_folder)), encoding="utf-8")
    with pytest.raises(InputError, match=says):
        push_to_hub(run_folder, NAME)


def test_links_out_of_the_folder_are_not_followed(run_folder, tmp_path):
    (tmp_path / "secret").write_text("x")
    (run_folder / "predictions" / "x.csv").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"predictions/x.csv is a link out of the folder"):
        files_to_push(run_folder)


def test_folders_are_shortened_wherever_they_stand():
    values = {
        "a": "/home/me/my data/dfp",
        "b": ["see /home/me/x.csv, line 3", "and/or", "data/dfp", 1 / 3],
        "c": "~/x/y",
    }
    assert without_folders(values) == {"a": "dfp", "b": ["see x.csv, line 3", "and/or", "data/dfp", 1 / 3], "c": "y"}
    assert [local_name(name) for name in ("runs/demo", "/x/runs/demo", "../demo")] == ["runs/demo", "demo", "demo"]
