"""Figures: what they show, that they can be read whatever the labels are, and the files they become."""

from __future__ import annotations

import subprocess
import sys
import warnings
from itertools import combinations
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from sklearn.metrics import confusion_matrix

from qabert.answers import decide
from qabert.cli import evaluate_main
from qabert.data.summary import label_shares
from qabert.errors import InputError
from qabert.evaluation import figures
from qabert.evaluation.calibration import calibration_bins, calibration_error
from qabert.evaluation.figures.comparison import only_right
from qabert.evaluation.figures.style import COLOURS, cells, lay_out, series, short_names, shorten
from qabert.tasks import PAPER_TASKS, QUORA, SST, STS, Task

HOSTILE = (
    "$\\frac{a$_b", "<script>alert('&amp;')</script>", "", "مرحبا بالعالم", "שלום עולם", "😀👩‍👩‍👧 smile",
    "日本語のとても長いラベル名がここにあります", "a\x00b\nc\u202exyz", "_under_score_", "x" * 200,
)  # fmt: skip
ARMS = ("qa", "_base_line $x^2$ <b>&amp;", "العربية 😀 model with quite a long name, really")


def classes(count: int | tuple[str, ...], name: str = "topic") -> Task:
    labels = count if isinstance(count, tuple) else tuple(f"category {n}: a topic called {n}" for n in range(count))
    return Task(name=name, problem="classification", question="q?", labels=labels)


def regression(low: float, high: float) -> Task:
    return Task(name="t" * 64, problem="regression", question="q?", range=(low, high))


def draw_rows(task: Task, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and answers that are right more often than not."""
    rng = np.random.default_rng(seed + 1)
    if task.range:
        low, high = task.range
        true = np.random.default_rng(0).uniform(low, high, rows)
        return true, np.clip(true + rng.normal(size=rows) * (high - low) / 8, low, high)
    count = len(task.labels)
    true = np.minimum(np.random.default_rng(0).geometric(2 / count, rows) - 1, count - 1)
    if task.problem == "binary":
        return true, np.clip(0.5 + (true - 0.5) * 0.4 + rng.normal(size=rows) * 0.2, 0, 1)
    logits = rng.normal(size=(rows, count)) + 2.5 * np.eye(count)[true]
    return true, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def all_figures(task: Task, rows: int, arms=ARMS):
    answers = {arm: draw_rows(task, rows, seed)[1] for seed, arm in enumerate(arms)}
    true = draw_rows(task, rows)[0]
    predictions = {arm: decide(task, given) for arm, given in answers.items()}
    yield figures.label_shares_figure(task, true, predictions)
    yield figures.only_right_figure(task, true, predictions)
    if task.problem == "regression":
        yield figures.regression_figure(task, true, predictions[arms[0]])
    else:
        yield figures.confusion_figure(task, true, predictions[arms[0]])
        yield figures.calibration_figure(task, true, answers)


def assert_readable(figure) -> None:
    """Drawn without a warning, no text smaller than 8 points, cut, or over its neighbour on an axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lay_out(figure)
    assert figure.get_figwidth() == 7 and figure.get_figheight() < 11.7
    inside = figure.bbox.padded(2)
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            assert text.get_fontsize() >= 8, text
            assert not text.get_parse_math(), text
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert max(box.size) > 100 and min(box.size) > (5 if axes.get_label() == "<colorbar>" else 60), "no room"
        if not axes.axison:
            continue
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = (high - low) * 1e-6
            drawn = [t for t in axis.get_major_ticks() if low - slack <= t.get_loc() <= high + slack]
            ticks = [t.label1 if t.label1.get_visible() else t.label2 for t in drawn]
            shown = [t.get_window_extent() for t in ticks if t.get_text() and t.get_visible()]
            named = [axis.label.get_window_extent()] if axis.label.get_text() else []
            assert all(_within(box, inside) for box in shown + named), [t.get_text() for t in ticks]
            assert not any(_overlap(a, b) for a, b in combinations(shown, 2)), [t.get_text() for t in ticks]
    extents = [text.get_window_extent() for legend in figure.legends for text in legend.get_texts()]
    assert all(_within(box, inside) for box in extents)
    assert not any(_overlap(a, b) for a, b in combinations(extents, 2))
    assert _within(figure._suptitle.get_window_extent(), inside)


def _within(box, outer) -> bool:
    return outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1


def _overlap(a, b, slack: float = 1.5) -> bool:
    return min(a.x1, b.x1) - max(a.x0, b.x0) > slack and min(a.y1, b.y1) - max(a.y0, b.y0) > slack


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


CASES = [
    (SST, 200), (STS, 200), (QUORA, 200), (classes(HOSTILE), 200), (classes(30), 900), (classes(100), 900),
    (classes(11), 9), (SST, 1), (STS, 1), (regression(-1e6, 1e6), 50), (regression(0, 0.001), 50),
    (Task(name="b", problem="binary", question="q?", labels=("<no> & $never$", "نعم بالتأكيد 😀 " * 4)), 50),
]  # fmt: skip


@pytest.mark.parametrize(("task", "rows"), CASES, ids=lambda value: getattr(value, "name", value))
def test_readable_whatever_the_labels(task, rows):
    for figure in all_figures(task, rows):
        assert_readable(figure)


def test_readable_with_many_arms_and_tasks():
    arms = [f"an arm with a long name, number {n}" for n in range(9)]
    for figure in all_figures(QUORA, 40, arms):
        assert_readable(figure)
    tasks = {name: classes(2) for name in ["x" * 64, *(f"task{n}" for n in range(9))]}
    entry = {f"{name}/loss": 1.0 for name in tasks} | {f"eval_{name}/accuracy": 0.5 for name in tasks}
    history = [{"epoch": 1, **entry}, {"epoch": 2, **entry, "eval_score": 0.7}]
    assert_readable(figures.history_figure({ARMS[2]: history, "empty": [], "one": history[:1], "$_$": history}, tasks))
    scores = {arm: {f"task{n} accuracy": [0.5, 0.6, 0.55] for n in range(7)} for arm in arms}
    assert_readable(figures.scores_figure(scores, {arms[1]: {"task1 accuracy": 0.9}}))


# --- what they show --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", PAPER_TASKS.values(), ids=PAPER_TASKS)
def test_label_shares_are_those_of_the_data_summary(task):
    true, answers = draw_rows(task, 200)
    predictions = {"a": decide(task, answers), "b": decide(task, answers)[::-1]}
    (axes,) = figures.label_shares_figure(task, true, predictions).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(list(label_shares(task, true).values()))
    for line, values in zip(axes.lines, predictions.values(), strict=True):
        assert list(line.get_xdata()) == pytest.approx(list(label_shares(task, values).values()))
    assert [text.get_text() for text in axes.get_yticklabels()] == list(label_shares(task, true))


def test_values_beyond_the_range_count_at_its_ends():
    (axes,) = figures.label_shares_figure(STS, [0.0, 5.0], {"a": np.array([-3.0, 9.0])}).axes
    assert list(axes.lines[0].get_xdata()) == [0.5, 0, 0, 0, 0, 0.5]


def test_a_confusion_matrix_has_counts_and_shares():
    true, answers = draw_rows(SST, 300)
    predicted = decide(SST, answers)
    axes = figures.confusion_figure(SST, true, predicted).axes[0]
    expected = confusion_matrix(true, predicted, labels=range(5))
    shares = expected / expected.sum(axis=1, keepdims=True)
    assert texts(axes) == [f"{n}\n{s:.0%}" for n, s in zip(expected.flat, shares.flat, strict=True)]
    np.testing.assert_allclose(axes.images[0].get_array(), shares)


def test_rare_labels_share_a_line_but_keep_their_own_hits():
    task = classes(100)
    true = np.array([*range(29)] * 3 + [50, 60, 70, 80])
    predicted = true.copy()
    predicted[-1] = 90  # wrong, though both labels are on the last line
    axes = figures.confusion_figure(task, true, predicted).axes[0]
    assert texts(axes) == ["right", *["100% of 3"] * 29, "75% of 4"]
    assert axes.get_yticklabels()[-1].get_text() == "71 rarer labels"
    (axes,) = figures.label_shares_figure(task, true, {"a": predicted}).axes
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(4 / 91)


def test_a_label_without_rows():
    axes = figures.confusion_figure(SST, [0, 0], np.array([0, 1])).axes[0]
    assert texts(axes)[:2] == ["1\n50%", "1\n50%"] and texts(axes)[5:] == ["0"] * 20


def test_regression_errors_by_true_value():
    true, predicted = np.array([0.0, 0.1, 5.0, 5.0, 4.9]), np.array([1.0, 2.1, 4.0, 3.0, 1.9])
    left, right = figures.regression_figure(STS, true, predicted).axes
    np.testing.assert_array_equal(left.lines[0].get_data(), (true, predicted))
    medians = [line.get_ydata()[0] for line in right.lines if line.get_linewidth() == 2]
    assert medians == pytest.approx([1.5, -2.0])  # of the nearest fifths 0 and 5
    assert [t.get_text() for t in right.get_xticklabels()] == ["0\n2", "1\n0", "2\n0", "3\n0", "4\n0", "5\n3"]


@pytest.mark.parametrize("task", [SST, QUORA], ids=["sst", "quora"])
def test_calibration_counts_how_often_probabilities_come_true(task):
    true, answers = draw_rows(task, 400)
    mean, came_true, counts = calibration_bins(task, true, answers)
    error = 0.0
    for number in range(10):
        rows = []
        for label, answer in zip(true, answers, strict=True):
            sure = answer if task is QUORA else max(answer)
            hit = label == (1 if task is QUORA else np.argmax(answer))
            if number / 10 <= sure < (number + 1) / 10 or (number == 9 and sure == 1):
                rows.append((sure, hit))
        assert counts[number] == len(rows)
        if rows:
            assert (mean[number], came_true[number]) == pytest.approx(tuple(np.mean(rows, axis=0)))
            error += abs(mean[number] - came_true[number]) * len(rows) / 400
    assert counts.sum() == 400
    assert calibration_error(mean, came_true, counts) == pytest.approx(error)
    figure = figures.calibration_figure(task, true, {"m": answers})
    assert figure.legends[0].get_texts()[0].get_text() == f"ECE {error:.3f}: m"
    assert [bar.get_height() for bar in figure.axes[1].patches] == list(counts)


def test_bins_of_few_rows_are_hollow():
    answers = np.array([0.05] * 10 + [0.95] * 9)
    figure = figures.calibration_figure(QUORA, [0] * 10 + [1] * 9, {"m": answers})
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in hollow] == [[pytest.approx(0.95)]]
    assert texts(figure.axes[0]) == ["hollow: under 10 rows"]


def test_only_right():
    true = np.array([0, 1, 1, 0, 1])
    predictions = {"a": [0, 1, 0, 1, 0], "b": [0, 0, 1, 0, 0], "c": [0, 0, 0, 0, 0]}
    alone, pairs = only_right(QUORA, true, predictions)
    assert alone.tolist() == [1, 1, 0]
    assert pairs.tolist() == [[0, 1, 1], [2, 0, 1], [1, 0, 0]]
    left, matrix = figures.only_right_figure(QUORA, true, predictions).axes
    assert [bar.get_width() for bar in left.patches] == [1, 1, 0]
    assert texts(matrix) == ["–", "1", "1", "2", "–", "1", "1", "0", "–"]


@pytest.mark.parametrize(("span", "near", "far"), [(5.0, 0.49, 0.5), (100.0, 9.9, 10.0)])
def test_a_value_is_right_within_a_tenth_of_the_range(span, near, far):
    alone, _ = only_right(regression(0, span), [0.0, 0.0], {"near": [near, near], "far": [far, far]})
    assert alone.tolist() == [2, 0]


def test_history_has_losses_and_first_metrics():
    history = [
        {"epoch": 0.5, "loss": 9.0, "sst/loss": 1.5},
        {"epoch": 1.0, "loss": 9.0, "sst/loss": float("nan"), "quora/loss": 0.7},
        {"epoch": 1.0, "eval_sst/accuracy": 0.4, "eval_sst/macro_f1": 0.1, "eval_sst/loss": 1.4, "eval_score": 0.5},
        {"train_runtime": 3.0, "train_loss": 1.0},
    ]
    upper, lower = figures.history_figure({"run": history}, {"sst": SST, "quora": QUORA}).axes
    points = lambda axes: [list(zip(*line.get_data(), strict=True)) for line in axes.lines]  # noqa: E731
    assert points(upper) == [[(0.5, 1.5)], [(1.0, 1.4)], [(1.0, 0.7)]]
    assert points(lower) == [[(1.0, 0.5)], [(1.0, 0.4)]]
    assert all(line.get_marker() != "none" for line in lower.lines)  # a lone point has no line to be seen by


def test_runs_stand_on_common_scales():
    runs = {"short": [{"epoch": 1, "sst/loss": 1.0}], "long": [{"epoch": 40, "sst/loss": 7.0}]}
    axes = figures.history_figure(runs, {"sst": SST}).axes
    assert {panel.get_xlim() for panel in axes} == {(0, 42)}
    assert axes[0].get_ylim() == axes[1].get_ylim() and axes[0].get_ylim()[1] > 7


def test_scores_have_seeds_means_and_the_papers():
    scores = {"a": {"sst accuracy": [0.4, 0.6]}, "b": {"sst accuracy": [float("nan")], "sts pearson": [-0.2]}}
    first, second = figures.scores_figure(scores, {"a": {"sst accuracy": 0.9}, "other": {"sst accuracy": 1.0}}).axes
    assert [bar.get_width() for bar in first.patches] == [0.5]
    assert sorted(x for line in first.lines for x in line.get_xdata()) == [0.4, 0.6, 0.9]
    assert texts(first) == ["0.500", "no score"] and texts(second) == ["no score", "-0.200"]
    assert first.get_xlim()[1] > 0.9 and second.get_xlim()[0] < -0.2
    assert [text.get_text() for text in first.figure.legends[0].get_texts()] == ["mean", "one seed", "the paper"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.label_shares_figure(SST, [1], {}), "task 'sst': there are no predictions"),
        (lambda: figures.only_right_figure(SST, [], {"a": []}), "at least one row"),
        (lambda: figures.confusion_figure(SST, [1, 2], [1]), "1 predictions and 2 references"),
        (lambda: figures.confusion_figure(SST, [1], [5]), "row 0 has class 5"),
        (lambda: figures.confusion_figure(STS, [1], [5]), "'sts' is a regression"),
        (lambda: figures.regression_figure(SST, [1], [5]), "'sst' is no regression"),
        (lambda: figures.calibration_figure(STS, [1], {"a": [5]}), "'sts' is a regression"),
        (lambda: figures.calibration_figure(SST, [1], {"a": [0.5]}), r"shape \(1,\); expected \(1, 5\)"),
        (lambda: figures.calibration_figure(QUORA, [1], {"a": [1.5]}), "no probabilities"),
        (lambda: figures.calibration_figure(QUORA, [1], {"a": [float("nan")]}), "no probabilities"),
        (lambda: figures.history_figure({}, PAPER_TASKS), "at least one run"),
        (lambda: figures.scores_figure({"a": {"x y": []}}, None), "no score"),
    ],
)
def test_what_cannot_be_drawn_is_said(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


# --- names and style -------------------------------------------------------------------------------------------------


def test_long_names_keep_both_ends():
    assert shorten("short") == "short"
    assert shorten("a name that goes on for ever", 12) == "a name…ever"
    for name in HOSTILE:
        short = shorten(name, 16)
        assert 0 < cells(short) <= 16 and short.replace("\u200d", "").isprintable()
    assert shorten("  \n\t ") == shorten("\u202e") == "(blank)"
    assert shorten("日本語日本語", 8) == "日本…語"
    assert not shorten("e\u0301" * 30, 9).endswith("…") and "…\u0301" not in shorten("e\u0301" * 30, 9)


def test_names_alike_after_shortening_are_numbered():
    names = [f"{'x' * 30}{n}{'y' * 30}" for n in range(3)]
    short = short_names([*names, "x"], 20)
    assert len(set(short)) == 4 and short[3] == "x" and max(map(cells, short)) <= 20
    assert short_names(["a\nb", "a b"]) == ["a b #1", "a b #2"]


def test_series_can_be_told_apart_without_colour():
    styles = [series(number) for number in range(8)]
    assert len({style["marker"] for style in styles}) == len({str(style["linestyle"]) for style in styles}) == 8
    assert len({(style["color"], style["marker"]) for style in map(series, range(56))}) == 56
    assert "#F0E442" not in COLOURS  # yellow on white


def test_the_callers_settings_stay_and_do_not_matter(tmp_path):
    true, answers = draw_rows(SST, 50)
    plain = figures.save_figure(figures.confusion_figure(SST, true, decide(SST, answers)), tmp_path, "plain")
    ours = {"font.size": 30.0, "axes.grid": False, "text.parse_math": True, "text.color": "red", "svg.fonttype": "path"}
    with matplotlib.rc_context(ours):
        again = figures.save_figure(figures.confusion_figure(SST, true, decide(SST, answers)), tmp_path, "again")
        assert {key: matplotlib.rcParams[key] for key in ours} == ours
    assert [path.read_bytes() for path in plain] == [path.read_bytes() for path in again]


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    code = (
        "import sys; from pathlib import Path; from qabert.tasks import SST; import qabert.evaluation.figures as f;"
        "print(*{'matplotlib', 'torch', 'evaluate'} & set(sys.modules));"
        f"f.save_figure(f.confusion_figure(SST, [0, 1], [0, 1]), Path({str(tmp_path)!r}), 'x');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("\nFalse\n", "")


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_are_png_and_svg_with_text_as_text(tmp_path):
    true, answers = draw_rows(classes(HOSTILE), 60)
    figure = figures.confusion_figure(classes(HOSTILE), true, answers.argmax(1))
    paths = figures.save_figure(figure, tmp_path / "new" / "folder", "name")
    assert paths == [tmp_path / "new" / "folder" / name for name in ("name.png", "name.svg")]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["name.png", "name.svg"]
    with Image.open(paths[0]) as image:
        assert image.width == 7 * 150
    svg = paths[1].read_text(encoding="utf-8")
    words = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    for label in ("$\\frac{a$_b", "<script>alert('…/script>", "_under_score_", "مرحبا بالعالم", "a b c xyz"):
        assert words.count(label) == 2  # on either axis
    assert "<script" not in svg and "<dc:date>" not in svg
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in figures.save_figure(figure, paths[0].parent, "name")] == before


def test_legends_show_names_that_begin_with_an_underscore(tmp_path):
    figure = figures.label_shares_figure(SST, [0], {"_hidden_": [1]})
    (_, svg) = figures.save_figure(figure, tmp_path, "x")
    assert ">_hidden_<" in svg.read_text()


def test_twenty_thousand_rows_stay_small(tmp_path):
    true, predicted = draw_rows(STS, 20_000)
    _, svg = figures.save_figure(figures.regression_figure(STS, true, predicted), tmp_path, "sts")
    assert svg.stat().st_size < 300_000
    true, answers = draw_rows(QUORA, 20_000)
    arms = {f"arm {n}": answers for n in range(6)}
    figure = figures.calibration_figure(QUORA, true, arms)
    assert_readable(figure)  # no bin is hollow here
    _, svg = figures.save_figure(figure, tmp_path, "quora")
    assert svg.stat().st_size < 150_000


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    figure = figures.confusion_figure(SST, [0, 1], [0, 1])
    (tmp_path / "x.png").write_text("old")
    drawn = figure.savefig

    def fail_on_svg(*args, **kwargs):
        if kwargs["format"] == "svg":
            raise MemoryError
        drawn(*args, **kwargs)

    monkeypatch.setattr(figure, "savefig", fail_on_svg)
    with pytest.raises(MemoryError):
        figures.save_figure(figure, tmp_path, "x")
    monkeypatch.undo()
    (tmp_path / "x.svg").mkdir()  # where the second file should go
    with pytest.raises(OSError):
        figures.save_figure(figure, tmp_path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png", "x.svg"]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_all_figures_of_a_model(tmp_path):
    tasks = {"sts": STS, "quora": QUORA}
    rows = {name: draw_rows(task, 30) for name, task in tasks.items()}
    labels, answers = ({name: both[n] for name, both in rows.items()} for n in (0, 1))
    paths = figures.model_figures(tasks, labels, answers, tmp_path, [{"epoch": 1, "sts/loss": 1.0}])
    names = ["sts-labels", "sts-regression", "quora-labels", "quora-confusion", "quora-calibration", "history"]
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert all(path.is_file() for path in paths)


# --- scripts/evaluate.py --figures -----------------------------------------------------------------------------------


def test_evaluate_draws_without_an_output_dir(trained, course_folder, tmp_path, capsys):
    flags = ["--data", str(course_folder), "--tasks", "sts", "--device", "cpu"]
    evaluate_main([trained, *flags, "--figures", str(tmp_path / "f")])
    assert "2 figures, as PNG and SVG, are in " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "f").glob("*.svg")) == ["sts-labels.svg", "sts-regression.svg"]


def test_a_bad_place_and_a_missing_matplotlib_stop_before_rows_are_read(trained, tmp_path, monkeypatch, capsys):
    def stop_of(place) -> str:
        with pytest.raises(SystemExit) as stop:
            evaluate_main([trained, "--data", str(tmp_path / "no such folder"), "--figures", str(place)])
        assert stop.value.code == 2
        return capsys.readouterr().err

    (tmp_path / "file").write_text("")
    assert "file: is a file; expected the name of a folder" in stop_of(tmp_path / "file")
    assert "no such folder" in stop_of(tmp_path / "f")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'qabert[report]'" in stop_of(tmp_path / "f")
    with pytest.raises(InputError, match="matplotlib"):
        figures.confusion_figure(SST, [0], [0])
