"""A reproduction's folder read back, its numbers, and the report that shows them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from qabert.answers import decide, write_predictions
from qabert.errors import InputError
from qabert.evaluation.metrics import METRIC_FUNCTIONS, majority_baseline
from qabert.evaluation.report.documents import (
    Bullets,
    Code,
    Paragraph,
    Section,
    Table,
    html_page,
    markdown,
    markdown_text,
)
from qabert.evaluation.report.priors import needs_prior, training_shares, with_prior
from qabert.evaluation.report.reproduction import read_predictions, read_reproduction
from qabert.evaluation.report.results import collect
from qabert.evaluation.report.writing import document, write_report
from qabert.tasks import QUORA, SST, STS, Task

HOSTILE = '<script>alert(1)</script> "q" & `x` | *b* _u_ [l](http://x.example) 😀 שלום \u202eevil\x00\r\n# h \ud800'
TOPIC = Task(name="topic", problem="classification", question="What?", labels=('a, "b"', "c|<i>d</i>", "é😀"))


def draw(task: Task, rows: int, skill: float, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Answers that are the better the more skill; at 50 all are right."""
    if task.problem == "regression":
        return np.clip(labels + rng.normal(0, 2 / (1 + max(skill, 0)), rows), *task.range)
    logits = rng.normal(0, 1, (rows, len(task.labels))) + skill * np.eye(len(task.labels))[labels]
    answers = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return answers[:, 1] if task.problem == "binary" else answers


def write_run(folder: Path, tasks, arm: str, seed: int, skill: float, rows: int = 60, **arguments) -> None:
    """What training leaves behind, with random answers."""
    scores, data, majority = {}, {}, {}
    for number, task in enumerate(tasks):
        rng = np.random.default_rng(number)
        labels = rng.uniform(*task.range, rows).round(1) if task.range else rng.integers(0, len(task.labels), rows)
        answers = draw(task, rows, skill, np.random.default_rng([number, seed, *arm.encode()]), labels)
        path = folder / "predictions" / f"{task.name}-dev.csv"
        write_predictions(path, task, [f"{task.name}{row}" for row in range(rows)], answers, labels)
        answers = read_predictions(path, task).answers
        scores[task.name] = {m: METRIC_FUNCTIONS[m](decide(task, answers), labels) for m in task.metrics} | {
            "loss": 1.0
        }
        majority[task.name] = majority_baseline(task, labels, labels)
        shares = {name: (n + 1) / sum(range(1, len(task.labels) + 1)) for n, name in enumerate(task.labels)}
        data[task.name] = {split: {"used": 600, "label_shares": shares} for split in ("train", "dev")}
    keys = {
        "format": "separate",
        "weighted_sampling": False,
        "prior_correction": False,
        "encoder": "minilm",
    } | arguments
    metrics = {
        "scores": scores, "majority": majority, "data": data, "versions": {"torch": "2"},
        "train_examples": 1200, "train_seconds": 60.0 * seed,
        "history": [{"loss": 1.0, "epoch": 0.5, "step": 1}, {"eval_score": 0.5, "epoch": 1.0, "step": 2}],
        "arguments": keys | {"tasks": {task.name: task.to_dict() for task in tasks}},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))


def make(folder: Path, tasks=(SST, STS, QUORA), arms=None, seeds=(1, 2, 3), **declared) -> Path:
    """A reproduction: arms by name with their skill and arguments."""
    arms = arms or {"baseline": {"skill": 0.5}, "qa": {"skill": 3.0, "format": "qa", "weighted_sampling": True}}
    for arm, keys in arms.items():
        for seed in seeds:
            write_run(folder / "arms" / arm / f"seed-{seed}", tasks, arm, seed, **keys)
    values = {
        "command": "scripts/reproduce.py x", "seeds": list(seeds), "settings": {"encoder": "minilm"},
        "arms": {arm: {"format": keys.get("format", "separate")} for arm, keys in arms.items()},
        "compare": [["baseline", "qa"]] if {"baseline", "qa"} <= set(arms) else [],
    } | declared  # fmt: skip
    (folder / "reproduction.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    """A reproduction with everything that a report can show, and hostile text wherever text comes from data."""
    arms = {
        "baseline": {"skill": -3.0},
        "joint": {"skill": 0.3, "format": "joint", "weighted_sampling": True},
        "qa": {"skill": 1.5, "format": "qa", "weighted_sampling": True},
    }
    folder = tmp_path_factory.mktemp("full")
    note = HOSTILE.replace("\x00", "").replace("\ud800", "")
    make(folder, (STS, QUORA), arms, compare=[["baseline", "joint"], ["joint", "qa"]], notes={"qa": note},
         paper={"baseline": "baseline", "qa": "qa"}, questions={"other": {"quora": note}})  # fmt: skip
    texts = {
        task.name: {f"{task.name}{row}": [HOSTILE, f"{row} {HOSTILE}"] for row in range(60)} for task in (STS, QUORA)
    }
    (folder / "rows.json").write_text(json.dumps(texts))
    entry = {"file": "<b>.csv", "sha256": "ab" * 32, "rows": 60}
    (folder / "fingerprints.json").write_text(json.dumps({"quora": {"dev": entry}}))
    for seed in (1, 2, 3):
        run = folder / "arms" / "qa" / f"seed-{seed}"
        own = {"quora": {"accuracy": 0.5 + seed / 100, "rows": 60}}
        other = {"quora": {"accuracy": 0.25, "rows": 60}}
        (run / "questions.json").write_text(json.dumps({"own": own, "other": other}))
        shares = {"question": 0.1 * seed, "sentence_a": 1 - 0.1 * seed}
        method = {"share": shares, "share_per_token": shares, "words": [{"word": HOSTILE, "count": 5}]}
        (run / "saliency.json").write_text(json.dumps({"quora": {"rows": 9, "methods": {"rollout": method}}}))
        (run / "triplet").mkdir()
        stage = {"loss": "equation1", "before": {"quora": {"nearer": 0.25}}, "after": {"quora": {"nearer": 0.75}},
                 "history": [{"hinge_zero": 0.875, "step": 50}, {"loss": 0.1, "step": 60}], "frames": {"quora": 7},
                 "seconds": 120.0}  # fmt: skip
        (run / "triplet" / "metrics.json").write_text(json.dumps(stage))
    return folder


@pytest.fixture(scope="module")
def written(full) -> list[Path]:
    return write_report(full, samples=100)


def blocks(results, kind=Table):
    return [block for section in document(results, []) for block in section.blocks if isinstance(block, kind)]


# --- predictions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [SST, STS, QUORA, TOPIC], ids=lambda task: task.name)
def test_predictions_are_read_as_written(tmp_path, task):
    rng = np.random.default_rng(0)
    labels = rng.uniform(0, 5, 50).round(4) if task.range else rng.integers(0, len(task.labels), 50)
    answers = draw(task, 50, 0.2, rng, labels)
    ids = [f'{row},"\r\n😀' for row in range(50)]
    write_predictions(tmp_path / "p.csv", task, ids, answers, labels)
    found = read_predictions(tmp_path / "p.csv", task)
    assert found.ids == ids
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.answers, answers, atol=6e-5)
    if not task.range:
        np.testing.assert_array_equal(decide(task, found.answers), decide(task, answers))
    write_predictions(tmp_path / "p.csv", task, ids, answers)
    assert read_predictions(tmp_path / "p.csv", task).labels is None


def test_a_tie_that_rounding_made_goes_to_the_written_prediction(tmp_path):
    for task, answers in ((QUORA, np.array([0.5 + 1e-8, 0.5, 0.5 - 1e-8])),
                          (TOPIC, np.array([[0.4 - 1e-8, 0.4, 0.2], [0.4, 0.4 - 1e-8, 0.2]]))):  # fmt: skip
        write_predictions(tmp_path / "p.csv", task, list("abc")[: len(answers)], answers, [0] * len(answers))
        found = read_predictions(tmp_path / "p.csv", task)
        np.testing.assert_array_equal(decide(task, found.answers), decide(task, answers))


WHOLE = "id,label,prediction,p(not a paraphrase),p(paraphrase)\na,paraphrase,paraphrase,0.2,0.8\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't be read"),
        ("", "expected .*'p\\(paraphrase\\)'"),
        ("id,label,prediction\na,1,1\n", "its columns are"),
        (WHOLE.split("\n")[0] + "\n", "no rows"),
        (WHOLE + "b,paraphrase,para", "line 3: has 3 columns"),
        (WHOLE.replace("a,paraphrase", "a,parapfrase"), "line 2: unknown label 'parapfrase' \\(did you mean"),
        (WHOLE.replace("0.8", "x"), "line 2: 'x' is no number"),
        (WHOLE.replace("0.8", "nan"), "line 2: 'nan' is no finite number"),
        (WHOLE.replace("0.8", "0.9"), "line 2: its probabilities are no shares"),
        (WHOLE.replace("0.2,0.8", "0.8,0.2"), "line 2: the prediction isn't the likeliest"),
        (WHOLE.encode() + b"\xff", "UTF-8"),
        (WHOLE + '"b', "no CSV file"),
    ],
)
def test_damaged_predictions_are_refused(tmp_path, text, said):
    path = tmp_path / "p.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said) as raised:
        read_predictions(path, QUORA)
    assert str(path) in str(raised.value)


# --- the folder ---------------------------------------------------------------------------------------------------


def test_unfinished_runs_are_named_and_left_out(tmp_path):
    make(tmp_path, tasks=(QUORA,))
    (tmp_path / "arms/qa/seed-2/metrics.json").unlink()  # a run writes it last
    found = read_reproduction(tmp_path)
    assert found.missing == [("qa", 2)]
    assert {arm: list(by_seed) for arm, by_seed in found.runs.items()} == {"baseline": [1, 2, 3], "qa": [1, 3]}
    results = collect(found, samples=20)
    assert list(results["differences"][0]["by_seed"]) == ["1", "3"]  # seeds are paired
    assert any("not in this report: qa (seed 2)." in one.text for one in blocks(results, Paragraph))
    for seed in (1, 3):
        (tmp_path / f"arms/qa/seed-{seed}/metrics.json").unlink()
    results = collect(read_reproduction(tmp_path), samples=20)
    assert any("not in this report: qa." in one.text for one in blocks(results, Paragraph))


def test_a_reproduction_that_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"reproduction\.yaml: can't be read"):
        read_reproduction(tmp_path)
    make(tmp_path, tasks=(QUORA,))
    plan = yaml.safe_load((tmp_path / "reproduction.yaml").read_text())

    def refused(said, **changed):
        (tmp_path / "reproduction.yaml").write_text(yaml.safe_dump(plan | changed))
        with pytest.raises(InputError, match=said):
            read_reproduction(tmp_path)

    refused("key 'compare': unknown arm 'qaa' .did you mean 'qa'", compare=[["baseline", "qaa"]])
    refused("expected a list of .arm, arm", compare=[["baseline"]])
    refused("key 'paper': unknown arm", paper={"x": "qa"})
    refused("key 'seeds'", seeds="1")
    refused("none of its runs is finished", arms={"other": {}}, compare=[])
    refused("key 'arms'", arms=[1])


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("metrics.json", lambda text: text[:-9], "metrics.json: can't be read as JSON"),
        ("metrics.json", lambda text: "[1]", "expected a JSON object"),
        ("metrics.json", lambda text: '{"scores": {}}', "expected 'scores' and 'arguments'"),
        ("metrics.json", lambda text: re.sub('"accuracy": [0-9.]+', '"accuracy": 0.123', text), "not of the same run"),
        ("predictions/quora-dev.csv", lambda text: text.replace("quora3,", "quora99,"), "its dev rows differ"),
        ("predictions/quora-dev.csv", lambda text: "", "its columns are"),
    ],
)
def test_a_damaged_run_is_refused(tmp_path, file, change, said):
    make(tmp_path, tasks=(QUORA,))
    path = tmp_path / "arms/qa/seed-3" / file
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=said):
        read_reproduction(tmp_path)


# --- the labels' prior --------------------------------------------------------------------------------------------


def test_training_shares_are_those_that_training_corrects_with(tmp_path):
    from qabert.training.building import label_priors

    make(tmp_path, tasks=(SST, STS), seeds=(1,))
    run = read_reproduction(tmp_path).runs["qa"][1]
    labels = np.repeat(np.arange(5), [40, 80, 120, 160, 200])  # the shares that `write_run` notes, of 600 rows
    expected = label_priors({"sst": SST}, {"sst": {"train": {"labels": labels}}})["sst"]
    np.testing.assert_allclose(training_shares(run, "sst"), expected)
    assert training_shares(run, "sts") is None


def test_an_answer_times_the_shares_is_renormalised():
    shares = np.array([0.75, 0.25])
    np.testing.assert_allclose(with_prior(QUORA, np.array([0.5, 0.9]), shares), [0.25, 0.225 / 0.3])
    both = with_prior(SST, np.full((1, 5), 0.2), np.array([0.1, 0.2, 0.3, 0.2, 0.2]))
    np.testing.assert_allclose(both, [[0.1, 0.2, 0.3, 0.2, 0.2]])


def test_only_evenly_drawn_uncorrected_arms_are_moved(tmp_path):
    arms = {
        "natural": {"skill": 1.0},
        "even": {"skill": 1.0, "weighted_sampling": True},
        "corrected": {"skill": 1.0, "weighted_sampling": True, "prior_correction": True},
    }
    make(tmp_path, arms=arms, seeds=(1,), compare=[["natural", "even"], ["natural", "corrected"]])
    found = read_reproduction(tmp_path)
    assert [arm for arm in arms if needs_prior(found.runs[arm][1])] == ["even"]
    results = collect(found, samples=20)
    before, after = results["scores"], results["scores_with_prior"]
    assert [arm for arm in arms if before[arm] != after[arm]] == ["even"]
    assert before["even"]["sts"] == after["even"]["sts"]  # a regression has no shares
    answers = found.runs["even"][1].predictions["quora"].answers
    moved = with_prior(QUORA, answers, training_shares(found.runs["even"][1], "quora"))
    expected = METRIC_FUNCTIONS["accuracy"](decide(QUORA, moved), found.labels["quora"])
    assert after["even"]["quora"]["accuracy"]["mean"] == pytest.approx(expected)
    pairs = {(entry["a"], entry["b"]) for entry in results["differences_with_prior"]}
    assert pairs == {("natural", "even")}
    mean = next(
        e["mean"] for e in results["differences_with_prior"] if (e["task"], e["metric"]) == ("quora", "accuracy")
    )
    assert mean == pytest.approx(expected - before["natural"]["quora"]["accuracy"]["mean"])
    del arms["even"]
    make(tmp_path / "other", arms=arms, seeds=(1,))
    titles = [table.caption for table in blocks(collect(read_reproduction(tmp_path / "other"), samples=20))]
    assert not any("prior" in title for title in titles)


# --- numbers and sentences ----------------------------------------------------------------------------------------


def test_differences_read_as_they_are(tmp_path):
    arms = {"baseline": {"skill": 0.5}, "same": {"skill": 0.5}, "qa": {"skill": 50.0}}
    make(tmp_path, tasks=(QUORA,), arms=arms, compare=[["baseline", "qa"], ["qa", "baseline"], ["baseline", "same"]])
    results = collect(read_reproduction(tmp_path), samples=200)
    read = {(entry["a"], entry["b"]): entry["reading"] for entry in results["differences"]}
    assert read["baseline", "qa"] == "qa scores higher"
    assert read["qa", "baseline"] == "baseline scores lower"
    assert read["baseline", "same"].endswith("no difference can be shown")
    entry = results["differences"][0]
    means = [results["scores"][arm]["quora"]["accuracy"]["mean"] for arm in ("baseline", "qa")]
    assert entry["mean"] == pytest.approx(means[1] - means[0])
    assert entry["spread"] == pytest.approx(np.std(list(entry["by_seed"].values()), ddof=1))
    sentences = blocks(results, Bullets)[0].items
    assert sentences[0].startswith("qa − baseline: qa scores higher in quora accuracy +0.")


@pytest.mark.parametrize(
    ("skills", "verdict"),
    [((0, 1.5, 50), "holds"), ((1.5, 0, 50), "doesn't hold"), ((0, 50, 1.5), "doesn't hold")],
)
def test_the_papers_order(tmp_path, skills, verdict):
    arms = {name: {"skill": skill} for name, skill in zip(("one", "two", "three"), skills, strict=True)}
    paper = {"three": "qa", "one": "baseline", "two": "triplet"}  # in any order
    make(tmp_path, tasks=(QUORA, TOPIC), arms=arms, paper=paper)
    results = collect(read_reproduction(tmp_path), samples=100)
    assert [line["metric"] for line in results["paper_order"]] == ["accuracy", "f1"]  # the paper has no topic
    said = [item for block in blocks(results, Bullets) for item in block.items if "The paper's order" in item]
    assert said[0].startswith(f"The paper's order one < two < three in quora accuracy: {verdict} (")


def test_spread_is_shown_from_three_seeds_on(tmp_path):
    for seeds, plus_minus in (((1,), False), ((1, 2), False), ((1, 2, 3), True)):
        make(tmp_path / str(len(seeds)), tasks=(QUORA,), seeds=seeds)
        results = collect(read_reproduction(tmp_path / str(len(seeds))), samples=20)
        scores = next(table for table in blocks(results) if table.caption.startswith("Dev scores"))
        row = next(row for row in scores.rows if row[0] == "qa")
        assert all(("±" in cell) == plus_minus for cell in row[1:-2])
        assert scores.head[-2:] == ["examples", "minutes"]
        assert row[-2:] == ["1,200", f"{np.mean(seeds):.1f}"]
        values = [run["by_seed"] for run in results["scores"]["qa"]["quora"].values()]
        assert all(len(one) == len(seeds) for one in values)


def test_other_tasks_than_the_papers_have_no_columns_of_the_paper(tmp_path):
    make(tmp_path, tasks=(TOPIC,), paper={"baseline": "baseline", "qa": "qa"})
    results = collect(read_reproduction(tmp_path), samples=20)
    titles = [section.title for section in document(results, [])]
    assert titles == ["What was run", "Results", "Differences between the arms", "Examples"]
    heads = [head for table in blocks(results) for head in table.head]
    assert not any("paper" in head for head in heads)
    assert not any("paper" in str(row[0]) for table in blocks(results) for row in table.rows)


def test_a_plan_of_other_models_than_the_papers_is_not_called_theirs(tmp_path):
    make(tmp_path, tasks=(QUORA,), paper={})
    results = collect(read_reproduction(tmp_path), samples=20)
    assert [section.title for section in document(results, [])][1] == "Results"
    assert not any("its Q&ABERT" in str(block) for section in document(results, []) for block in section.blocks)


def test_the_papers_numbers_stand_beside_ours(tmp_path):
    make(tmp_path, seeds=(1,), paper={"baseline": "baseline", "qa": "qa"})
    results = collect(read_reproduction(tmp_path), samples=20)
    scores, shares = (
        next(t for t in blocks(results) if t.caption.startswith(c)) for c in ("Dev scores", "Label shares")
    )
    rows = [row[0] for row in scores.rows]
    assert rows == ["always the same answer", "baseline", "paper: baseline", "qa", "paper: qa"]
    assert scores.rows[-1][1:] == ["0.495", "", "0.843", "0.834", "0.868", "0.836", "", "", ""]
    assert shares.head == ["task", "label", "train", "train, paper", "dev", "dev, paper"]
    by_label = {(row[0], row[1]): row for row in shares.rows}
    assert by_label["quora", "paraphrase"][3] == "36.9 %"  # the paper's headings are swapped
    assert by_label["sst", "very negative"][2:4] == ["6.7 %", "12.7 %"]


def test_what_the_other_files_say(full):
    results = collect(read_reproduction(full), samples=20)
    assert results["questions"]["qa"]["other"]["quora"]["accuracy"]["mean"] == pytest.approx(0.25 - 0.52)
    assert results["saliency"]["qa"]["quora"]["rollout"]["share"]["question"] == pytest.approx(0.2)
    assert results["triplet"]["qa"]["measures"]["quora nearer"] == {"before": 0.25, "after": 0.75}
    assert results["triplet"]["qa"]["hinge_zero"] == {"50": 0.875}
    said = [item for block in blocks(results, Bullets) for item in block.items]
    assert any("asked the questions 'other' at test time: quora accuracy −0.270." in item for item in said)
    assert any("question's share of the saliency by rollout is quora 20.0 %" in item for item in said)
    gains = next(item for item in said if item.startswith("sts Pearson, from baseline to qa +"))
    assert "both sentences in one input (and rows drawn even over labels instead of as the rows are) +" in gains
    assert "(qa scores higher)" in gains.split("the question")[1]


@pytest.mark.parametrize(
    "odd", [{}, {"own": 3}, {"sst": [1]}, {"sst": {"methods": {"rollout": None}}}, {"before": "x"}]
)
def test_other_files_of_another_shape_do_no_harm(tmp_path, odd):
    make(tmp_path, tasks=(SST,), seeds=(1,))
    for name in ("questions.json", "saliency.json", "triplet/metrics.json"):
        path = tmp_path / "arms/qa/seed-1" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(odd))
    markdown("t", document(collect(read_reproduction(tmp_path), samples=20), []), tmp_path)


def test_examples_are_right_with_every_seed_and_wrong_with_every_other_model(full):
    found = read_reproduction(full)
    examples = collect(found, samples=20)["examples"]
    assert examples["quora"]
    right = {
        arm: [decide(QUORA, run.predictions["quora"].answers) == found.labels["quora"] for run in by_seed.values()]
        for arm, by_seed in found.runs.items()
    }
    for example in examples["quora"]:
        others = [one for arm, by_seed in right.items() if arm != example["right"] for one in by_seed]
        alone = np.all(right[example["right"]], axis=0) & ~np.any(others, axis=0)
        assert alone[int(example["id"].removeprefix("quora"))]
        assert example["rows_like_it"] == alone.sum()


# --- the files ----------------------------------------------------------------------------------------------------


def test_every_figure_and_file_is_there(full, written):
    assert [path.name for path in written[:3]] == ["report.md", "report.html", "results.json"]
    assert all(path.stat().st_size for path in written)
    text = written[0].read_text()
    named = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert {full / name for name in named} == {path for path in written[3:] if path.suffix == ".png"}
    assert {Path(name).stem for name in named} >= {"scores", "history", "quora-labels", "sts-qa-regression"}
    assert not list(full.rglob("*.part"))


def test_every_number_of_the_text_is_in_the_results(written):
    shown = set(re.findall(r"\d\.\d{3}(?!\d)", written[0].read_text()))
    known: set[str] = set()

    def walk(value):
        if isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                walk(part)
        elif isinstance(value, float):
            known.add(f"{abs(value):.3f}")

    walk(json.loads(written[2].read_text(), parse_constant=pytest.fail))
    assert len(shown) > 50
    assert shown <= known


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_self_contained_and_shows_text_as_text(written):
    page = _Page()
    source = written[1].read_text(encoding="utf-8")
    page.feed(source)
    assert not {"script", "iframe", "link", "object", "i"} & set(page.tags)
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in page.addresses)
    assert "default-src 'none'; img-src data:" in source  # a browser would refuse the rest
    assert "url(" not in source
    assert "@import" not in source
    shown = [text for text in page.text if "<script>alert(1)</script>" in text]
    assert len(shown) >= 6  # a note, a question, saliency's words, examples
    assert all("😀 שלום evil # h" in text for text in shown)
    assert not re.search("[\u202a-\u202e\x00-\x08]", source)


def test_markdown_tables_hold_hostile_text(written):
    lines = written[0].read_text(encoding="utf-8").splitlines()
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    tables = [n for n, line in enumerate(lines) if re.fullmatch(r"(\| -+:? )+\|", line)]
    assert len(tables) >= 8
    for start in tables:
        row = start - 1
        while row < len(lines) and lines[row].startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", lines[row])) == len(re.findall(r"\|", lines[start]))
            row += 1
    assert "<script" not in written[0].read_text()
    assert widths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# no heading", "\\# no heading"),
        ("1. no list", "1\\. no list"),
        ("4.4", "4.4"),
        ("- no list", "\\- no list"),
        ("---", "\\---"),
        ("separate_mean _u_", "separate_mean \\_u\\_"),
        ("a\n\n|b", "a \\|b"),
        ("&lt; <b>", "&amp;lt; &lt;b&gt;"),
        ("שלום\u202e!", "\u2068שלום !\u2069"),
        ("half \ud800", "half ?"),
    ],
)
def test_markdown_shows_text_as_it_is(text, shown):
    assert markdown_text(text) == shown


def test_a_command_stays_in_its_block(tmp_path):
    text = markdown("t", [Section("s", [Code("a ``` b\n# c")])], tmp_path)
    assert "````\na ``` b # c\n````" in text
    assert "<code>a &lt;b&gt;</code>" in html_page("t", [Section("s", [Code("a <b>")])])


def test_nothing_is_written_where_the_report_cannot_be(tmp_path):
    make(tmp_path, tasks=(QUORA,), seeds=(1,))
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match=r"report\.html"):
        write_report(tmp_path)
    assert not (tmp_path / "report.md").exists()
    assert not (tmp_path / "figures").exists()
