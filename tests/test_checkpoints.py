"""Folders are whole or absent, and a damaged one is told from a whole one."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qabert.checkpoints import (
    CHECKSUMS,
    checkpoints,
    clear_parts,
    newest_whole,
    problem,
    remove,
    rotate,
    verify,
    whole_folder,
    write_checksums,
)
from qabert.errors import InputError

FILES = {"a.txt": b"alpha", "b/inner.bin": bytes(range(256)) * 20, "empty": b""}


def write(folder, files=FILES):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def save(output, step):
    with whole_folder(output / f"checkpoint-{step}") as part:
        write(part)
    return output / f"checkpoint-{step}"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path):
    place = tmp_path / "checkpoint-3"
    with whole_folder(place) as part:
        write(part)
        assert not place.exists()
    assert problem(place) is None
    assert names(tmp_path) == ["checkpoint-3"]
    assert set(json.loads((place / CHECKSUMS).read_text())["files"]) == set(FILES)


def test_a_folder_that_fails_leaves_the_old_one_as_it_was(tmp_path):
    place = save(tmp_path, 3)
    before = (place / "a.txt").read_bytes()
    with pytest.raises(OSError, match="full"), whole_folder(place) as part:
        (part / "a.txt").write_bytes(b"half")
        raise OSError("full")
    assert (place / "a.txt").read_bytes() == before
    assert names(tmp_path) == ["checkpoint-3"]


def test_a_new_folder_replaces_the_old_one(tmp_path):
    place = save(tmp_path, 3)
    with whole_folder(place) as part:
        write(part, {"other": b"1"})
    assert names(place) == [CHECKSUMS, "other"]
    assert names(tmp_path) == ["checkpoint-3"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 10**6), st.sampled_from(["flip", "cut", "grow", "delete"]))
def test_every_damage_is_found_and_named(tmp_path_factory, name, place, kind):
    folder = save(tmp_path_factory.mktemp("damage"), 1)
    path = folder / name
    data = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
    elif kind == "grow":
        path.write_bytes(bytes(data) + b"x")
    elif not data:
        return
    elif kind == "cut":
        path.write_bytes(bytes(data[: place % len(data)]))
    else:
        data[place % len(data)] ^= 1 << place % 8
        path.write_bytes(bytes(data))
    assert name in (problem(folder) or "")
    with pytest.raises(InputError, match=name):
        verify(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"files": 3}', '{"files": {"a.txt": 1}}', '{"files": {"a": {"size": 1}}}']
)
def test_damaged_checksums(tmp_path, text):
    folder = save(tmp_path, 1)
    (folder / CHECKSUMS).write_text(text)
    assert "can't be read" in (problem(folder) or "")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "b/../../secret"])
def test_checksums_name_nothing_outside(tmp_path, name):
    folder = save(tmp_path, 1)
    (folder / CHECKSUMS).write_text(json.dumps({"files": {name: {"size": 1, "sha256": "0"}}}))
    assert "outside" in (problem(folder) or "")


def test_a_folder_of_another_program_is_taken_as_it_is(tmp_path):
    write(tmp_path)
    verify(tmp_path)
    assert "never written to its end" in (problem(tmp_path) or "")


def test_the_newest_whole_checkpoint_by_number(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    (tmp_path / "checkpoint-200").mkdir()  # a kill came before its first file
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-100" / "a.txt").write_bytes(b"beta!")
    told = []
    assert newest_whole(tmp_path, told.append) == tmp_path / "checkpoint-10"
    assert len(told) == 2
    assert "checkpoint-200" in told[0]
    assert "a.txt" in told[1]
    assert newest_whole(tmp_path / "nowhere") is None


@settings(max_examples=80, deadline=None)
@given(st.sets(st.integers(1, 40), min_size=1, max_size=6), st.one_of(st.none(), st.integers(0, 4)), st.data())
def test_rotation_keeps_the_newest_and_the_best(tmp_path_factory, steps, keep, data):
    output = tmp_path_factory.mktemp("rotate")
    for step in steps:
        (output / f"checkpoint-{step}").mkdir()
    best = data.draw(st.one_of(st.none(), st.sampled_from(sorted(steps))))
    rotate(output, keep, None if best is None else f"elsewhere/checkpoint-{best}")
    left = {int(path.name.split("-")[1]) for path in checkpoints(output)}
    assert {max(steps), *([] if best is None else [best])} <= left
    if keep:
        assert len(left) == min(len(steps), max(keep, len({max(steps), best or max(steps)})))
        assert {step for step in steps if step > min(left - {best} or left)} <= left  # the oldest went first
    else:
        assert left == steps
    assert not list(output.glob(".*"))


def test_what_a_killed_process_left_is_cleared(tmp_path):
    place = save(tmp_path, 3)
    (tmp_path / ".checkpoint-4.part").mkdir()
    (tmp_path / ".checkpoint-2.gone").mkdir()
    (tmp_path / ".git").mkdir()
    shutil.copytree(place, tmp_path / ".checkpoint-5.old")  # killed between the two renames
    shutil.copytree(place, tmp_path / ".checkpoint-3.old")  # killed after both
    clear_parts(tmp_path)
    assert names(tmp_path) == [".git", "checkpoint-3", "checkpoint-5"]


def test_removed_folders_lose_their_name_first(tmp_path, monkeypatch):
    place = save(tmp_path, 3)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **kwargs: None)  # a kill as soon as deleting begins
    remove(place)
    assert names(tmp_path) == [".checkpoint-3.gone"]


def test_checksums_list_what_there_is(tmp_path):
    write(tmp_path)
    write_checksums(tmp_path)
    assert problem(tmp_path) is None
