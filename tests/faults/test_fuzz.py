"""Malformed input through the real commands ends as a correct run or as one message that names a place, with code 2.

A sample and every input that once failed run always; `pytest tests/faults -m fuzz --fuzz-cases 5000` runs thousands.
"""

from __future__ import annotations

import collections
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REGRESSIONS = HERE / "fuzz_regressions.json"
SAMPLE = 60


def run(templates: Path, folder: Path, *words: str) -> list[dict]:
    out = folder / "results.jsonl"
    command = [sys.executable, str(HERE / "fuzz_runner.py"), "--templates", str(templates), "--out", str(out), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return [json.loads(line) for line in out.read_text().splitlines()]


def failures(results: list[dict]) -> str:
    failed = [result for result in results if result["failure"]]
    return "\n".join(f"{r['name']} ({r['kind']}, {r['command']}): {r['failure']}" for r in failed)


def table(results: list[dict]) -> str:
    """Of each kind: cases, exit codes, failures, seconds."""
    kinds = collections.defaultdict(list)
    for result in results:
        kinds[result["kind"] + (" (process)" if result["script"] else "")].append(result)
    heads = ("cases", "exit 0", "exit 2", "exit 1", "failed", "median s", "max s", "max MB")
    lines = [f"{'kind':28}" + "".join(f"{head:>9}" for head in heads)]
    for kind, found in [*sorted(kinds.items()), ("all", results)]:
        codes = collections.Counter(result["code"] for result in found)
        seconds = [result["seconds"] for result in found]
        counts = [len(found), codes[0], codes[2], codes[1], sum(bool(result["failure"]) for result in found)]
        times = f"{statistics.median(seconds):9.2f}{max(seconds):9.1f}"
        numbers = "".join(f"{count:9}" for count in counts)
        lines.append(f"{kind:28}{numbers}{times}{max(result['megabytes'] for result in found):9}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def sampled(templates, tmp_path_factory) -> list[dict]:
    words = ["--cases", str(REGRESSIONS), "--seeds", f"0:{SAMPLE}", "--workers", "2"]
    return run(templates, tmp_path_factory.mktemp("sample"), *words)


def test_a_sample_of_malformed_input_is_read_or_refused(sampled):
    cases = [result for result in sampled if result["name"].isdigit()]
    assert len(cases) == SAMPLE and {0, 2} <= {result["code"] for result in cases}
    assert not failures(cases), failures(cases)


def test_what_failed_once_is_read_or_refused(sampled):
    stored = json.loads(REGRESSIONS.read_text())
    cases = [result for result in sampled if not result["name"].isdigit()]
    assert sorted(result["name"] for result in cases) == sorted(case["name"] for case in stored) and stored
    assert not failures(cases), failures(cases)


def test_a_seed_is_the_same_case_every_time(templates):
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import fuzz, json, pathlib\n"
        f"print(json.dumps([fuzz.case(seed, pathlib.Path({str(templates)!r})).to_dict() for seed in (9, 3, 700, 41)]))"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    )
    assert first.stdout == second.stdout and len(json.loads(first.stdout)) == 4


BAD = [
    ("raises", 1, "", "Traceback (most recent call last):\n  File\nTypeError: x\n", set(), "traceback: TypeError"),
    ("code", 3, "", "error: model.csv, line 3\n", set(), "exit 3"),
    ("silent", 2, "", "", set(), "0 messages"),
    ("two", 2, "", "error: key 'a'\nerror: key 'b'\n", set(), "2 messages"),
    ("vague", 2, "", "error: something went wrong\n", set(), "names no place"),
    ("escape", 2, "", "error: key '\x1b[2J'\n", set(), "control characters"),
    ("long", 2, "", "error: key " + "a" * 6000, set(), "a message of"),
    ("part", 2, "", "error: key 'a'\n", {"out/metrics.json.part"}, "partial output"),
    ("output", 2, "", "error: key 'a'\n", {"out", "out/config.json"}, "output after an error"),
    ("empty", 0, "", "", set(), "without ['metrics.json'"),
]


@pytest.mark.parametrize(("code", "out", "err", "new", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_the_judge_sees_what_is_wrong(code, out, err, new, said):
    words = f"import sys; sys.path.insert(0, {str(HERE)!r}); import fuzz_runner as r\n"
    words += f"print(r.judge(r.fuzz.Case('x', 'x', 'train', ['x']), {code!r}, {out!r}, {err!r}, {new!r}))"
    process = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert said in process.stdout


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_malformed_input_is_read_or_refused(templates, tmp_path, pytestconfig, capsys):
    first, count = pytestconfig.getoption("--fuzz-first", 0), pytestconfig.getoption("--fuzz-cases", 5000)
    results = run(templates, tmp_path, "--seeds", f"{first}:{first + count}", "--scripts", "100", "--workers", "2")
    with capsys.disabled():
        print("\n" + table(results))
    assert len(results) == count + count // 100
    assert not failures(results), failures(results)
