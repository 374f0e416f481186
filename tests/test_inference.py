"""A checkpoint alone answers, and how rows are batched changes no answer."""

from __future__ import annotations

import csv
import itertools
import json
import random
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qabert import inference
from qabert.answers import readable, write_predictions
from qabert.cli import main
from qabert.data.prompts import PromptEncoder
from qabert.errors import InputError
from qabert.inference import Predictor, calls
from qabert.model_config import read_config
from qabert.tasks import PAPER_TASKS, QUORA, SST, STS, Task

WORDS = ["ab", "cd", "ef", "gh", "film", "?", "☃", "{text_a}", "é"]
SENTENCE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join)


def rows_of(task: Task, count: int, seed: int = 0) -> list[tuple[str, str | None]]:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(2 * count)]
    return [(texts[2 * n], texts[2 * n + 1] if task.pair else None) for n in range(count)]


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_pretrained(trained, "cpu")


@pytest.fixture(scope="module", params=["separate", "joint", "qa"])
def each_format(request, tmp_path_factory, save_checkpoint):
    return Predictor.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("f"), input_format=request.param), "cpu")


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=9),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([SST, STS, QUORA]),
)
def test_order_and_answers_do_not_depend_on_chunks_and_batches(predictor, rows, chunk, batch_size, task):
    rows = [(a, b if task.pair else None) for a, b in rows]
    alone = np.concatenate([next(predictor.answers(task.name, [row])) for row in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "CHUNK", chunk)
        parts = list(predictor.answers(task.name, rows, batch_size))
    assert [len(part) for part in parts] == [len(rows[n : n + chunk]) for n in range(0, len(rows), chunk)]
    np.testing.assert_allclose(np.concatenate(parts), alone, atol=1e-5)


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_every_format_answers_and_the_batch_size_changes_nothing(each_format, name):
    rows = rows_of(PAPER_TASKS[name], 20)
    whole = list(each_format.predict(name, rows, 64))
    assert len(whole) == len(rows)
    for batch_size in (1, 7):
        for one, other in zip(each_format.predict(name, rows, batch_size), whole, strict=True):
            assert one.get("label") == other.get("label")
            assert one.get("value", 0) == pytest.approx(other.get("value", 0), abs=2e-4)
            assert one.get("probabilities", {}) == pytest.approx(other.get("probabilities", {}), abs=2e-4)


@torch.inference_mode()
def one_at_a_time(predictor, task: Task, rows) -> np.ndarray:
    """Logits by the plainest way: every row alone, without padding, the whole encoder."""
    model, config = predictor.model, predictor.model.config
    encoder = PromptEncoder(config.input_format, predictor.tokenizer, task, config.max_length)
    found = []
    for text_a, text_b in rows:
        features = encoder({"text_a": [text_a], "text_b": [text_b]})
        keys = [key for key in ("input_ids", "token_type_ids") if key in features]
        inputs = [{key: torch.tensor([features[key][0][n]]) for key in keys} for n in range(len(features[keys[0]][0]))]
        first = [model.encoder(**one).last_hidden_state[:, 0] for one in inputs]
        found.append(model.heads[f"head_{task.name}"](torch.cat(first, -1)))
    return torch.cat(found).numpy()


@pytest.mark.parametrize("name", PAPER_TASKS)
@pytest.mark.parametrize(("chunk", "batch_size", "tokens"), [(4096, 64, 2048), (16, 3, 100), (16, 64, 1)])
def test_batches_answer_as_one_row_at_a_time(each_format, name, chunk, batch_size, tokens, monkeypatch):
    monkeypatch.setattr(inference, "CHUNK", chunk)
    monkeypatch.setattr(inference, "CPU_TOKENS", tokens)
    rows = rows_of(PAPER_TASKS[name], 50) + rows_of(PAPER_TASKS[name], 1, seed=1) * 2
    rows.insert(7, ("ab " * 300, "cd" if PAPER_TASKS[name].pair else None))  # cut
    logits = np.concatenate(list(each_format.logits(name, iter(rows), batch_size)))
    np.testing.assert_allclose(logits, one_at_a_time(each_format, PAPER_TASKS[name], rows), rtol=1e-5, atol=1e-5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 70), st.none() | st.integers(1, 300))
def test_calls_hold_every_row_once_and_no_more_tokens_than_allowed(lengths, batch_size, most):
    found = [chosen.tolist() for chosen in calls(np.array(lengths, dtype=np.int64), batch_size, most)]
    flat = list(itertools.chain.from_iterable(found))
    assert flat == sorted(range(len(lengths)), key=lambda row: -lengths[row])
    limit = min(batch_size * max(lengths, default=0), most or 10**9)
    for number, chosen in enumerate(found):
        taken = len(chosen) * lengths[chosen[0]]
        assert taken <= limit or len(chosen) == 1
        assert number == len(found) - 1 or taken + lengths[chosen[0]] > limit  # none is smaller than it need be


def test_a_cpu_is_given_calls_that_fit_its_caches(each_format, monkeypatch):
    monkeypatch.setattr(inference, "CPU_TOKENS", 300)
    taken, real = [], each_format.model.forward
    monkeypatch.setattr(each_format.model, "forward", lambda **inputs: taken.append(inputs) or real(**inputs))
    list(each_format.predict("sts", rows_of(STS, 40)))
    sizes = [inputs["input_ids"].shape for inputs in taken]
    assert all(rows * width <= 300 for rows, width in sizes)
    assert len(sizes) < 40  # and not a row each


def test_memory_does_not_grow_with_the_rows(predictor, monkeypatch):
    monkeypatch.setattr(inference, "CHUNK", 50)

    def peak(count):
        rows = ((f"{number} " + "ab " * 40, None) for number in range(count))
        tracemalloc.start()
        try:
            assert sum(1 for _ in predictor.predict("sst", rows)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is made once
    assert peak(1000) < 1.3 * peak(100)


@pytest.fixture(scope="module", params=["bert", "mpnet", "modernbert"])
def each_encoder(request, tmp_path_factory, save_checkpoint, make_config, plain_tokenizer):
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    AutoModel.from_config(make_config(request.param)).save_pretrained(folder / "encoder")
    trained = save_checkpoint(folder / "model", encoder=str(folder / "encoder"))
    plain_tokenizer.save_pretrained(trained)
    return trained


def test_bfloat16_answers_nearly_the_same(each_encoder):
    exact, fast = (Predictor.from_pretrained(each_encoder, "cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert {weights.dtype for weights in fast.model.encoder.parameters()} == {torch.bfloat16}
    for part in (fast.model.encoder.buffers(), fast.model.heads.parameters()):
        assert torch.bfloat16 not in {values.dtype for values in part}
    rows = rows_of(QUORA, 60)
    there, back = (np.concatenate(list(one.answers("quora", rows))) for one in (exact, fast))
    assert there.dtype == back.dtype == np.float32
    assert not np.array_equal(there, back)
    assert np.corrcoef(there, back)[0, 1] > 0.95


def test_an_unknown_dtype_is_told_before_anything_is_loaded():
    with pytest.raises(InputError, match=r"unknown dtype 'bfloat61'.*did you mean 'bfloat16'.*known: bfloat16"):
        Predictor.from_pretrained("nowhere", "cpu", dtype="bfloat61")


@pytest.mark.parametrize("words", [["predict", "--task", "sts", "--file"], ["evaluate", "--output_dir"]])
def test_the_commands_take_a_dtype(trained, course_folder, tmp_path, words, capsys):
    (tmp_path / "rows.txt").write_text("".join(f"ab {n}\tcd\n" for n in range(5)), encoding="utf-8")
    found = {}
    for dtype in ("float32", "bfloat16"):
        if words[0] == "predict":
            main([*words, str(tmp_path / "rows.txt"), trained, "--device", "cpu", "--dtype", dtype])
            found[dtype] = capsys.readouterr().out
        else:
            output = tmp_path / dtype
            main([*words, str(output), trained, "--data", str(course_folder), "--device", "cpu", "--dtype", dtype])
            found[dtype] = [path.read_text() for path in sorted((output / "predictions").iterdir())]
            assert len(found[dtype]) == 3
    pairs = zip(found["float32"], found["bfloat16"], strict=True) if words[0] == "evaluate" else [found.values()]
    assert all(one != other for one, other in pairs)


def test_submission_files_take_a_dtype(trained, course_folder, tmp_path, capsys):
    for dtype in ("float32", "bfloat16"):
        words = [trained, "--data", str(course_folder), "--output_dir", str(tmp_path / dtype), "--dtype", dtype]
        main(["predict", *words])
    same = []
    for path in sorted((tmp_path / "float32").iterdir()):
        exact, rounded = path.read_text(), (tmp_path / "bfloat16" / path.name).read_text()
        assert len(exact.splitlines()) == len(rounded.splitlines())
        same.append(exact == rounded)
    assert not all(same)


def test_the_order_of_a_pair_counts(each_format):
    (there, back), (same, _) = (
        next(each_format.logits("sts", [row, ("gh", "ab cd ef")])) for row in (("ab cd ef", "gh"), ("gh", "ab cd ef"))
    )
    assert abs(there - back) > 10 * abs(same - back)


def test_a_generator_of_rows_is_read_chunk_by_chunk(predictor, monkeypatch):
    monkeypatch.setattr(inference, "CHUNK", 4)
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield f"ab {number}", None

    answers = predictor.predict("sst", endless())
    assert taken == []
    first = list(itertools.islice(answers, 3))
    assert len(first) == 3
    assert len(taken) == 4
    list(itertools.islice(answers, 3))
    assert len(taken) == 8


def test_no_rows_no_answers(predictor):
    assert list(predictor.predict("sst", [])) == []
    assert list(predictor.logits("sts", iter([]))) == []


def test_long_rows_are_cut_to_what_the_encoder_has(predictor):
    (answer,) = predictor.predict("sts", [("ab " * 5000, "cd " * 5000)])
    assert 0 <= answer["value"] <= 5


def test_no_dropout_and_no_gradients(predictor):
    rows = rows_of(SST, 3)
    one, two = (next(predictor.logits("sst", rows)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not predictor.model.training
    assert one.dtype == np.float32


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("sst", ("a", "b"), "row 2: task 'sst' takes one, got two"),
        ("sts", ("a", None), "row 2: task 'sts' takes two, got one"),
        ("quora", ("a", " "), "row 2: a sentence is empty"),
        ("sst", ("", None), "row 2: a sentence is empty"),
    ],
)
def test_rows_that_do_not_fit_their_task(predictor, task, row, message):
    good = ("ab", "cd" if PAPER_TASKS[task].pair else None)
    with pytest.raises(InputError, match=message):
        list(predictor.predict(task, [good, row]))


def test_an_unknown_task_suggests_the_nearest(predictor):
    with pytest.raises(InputError, match=r"unknown task 'ssts'.*did you mean.*known: quora, sst, sts"):
        list(predictor.predict("ssts", [("a", None)]))


def test_a_checkpoint_alone_suffices(tmp_path, encoder_path, save_checkpoint):
    encoder = shutil.copytree(encoder_path, tmp_path / "encoder")
    folder = save_checkpoint(tmp_path / "run" / "model", encoder=str(encoder))
    rows = rows_of(SST, 5)
    before = next(Predictor.from_pretrained(folder, "cpu").logits("sst", rows))
    shutil.rmtree(encoder)
    moved = shutil.move(folder, tmp_path / "elsewhere")
    for file in ("config.json", "tokenizer_config.json"):
        assert str(tmp_path) not in (tmp_path / "elsewhere" / file).read_text()
    np.testing.assert_array_equal(next(Predictor.from_pretrained(str(moved), "cpu").logits("sst", rows)), before)


def test_the_configuration_is_read_without_the_weights(trained, tmp_path):
    shutil.copy(f"{trained}/config.json", tmp_path)
    config = read_config(str(tmp_path))
    assert [task["name"] for task in config.tasks] == ["sst", "sts", "quora"]
    assert "files" not in json.dumps(config.tasks)


def test_weights_that_are_not_finite_give_no_answers(trained):
    predictor = Predictor.from_pretrained(trained, "cpu")
    with torch.no_grad():
        next(predictor.model.heads["head_sst"].parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        list(predictor.predict("sst", [("ab", None)]))


def test_answers_as_a_person_reads_them():
    assert readable(STS, np.float32(2.345678)) == {"value": 2.3457}
    assert readable(QUORA, np.float32(0.75)) == {
        "label": "paraphrase",
        "probabilities": {"not a paraphrase": 0.25, "paraphrase": 0.75},
    }
    answer = readable(SST, np.array([0.1, 0.2, 0.4, 0.2, 0.1]))
    assert answer["label"] == "neutral"
    assert list(answer["probabilities"]) == list(SST.labels)


def test_the_predictions_file_names_labels_and_quotes_what_it_must(tmp_path):
    task = Task(name="own", problem="classification", question="?", labels=('a, "b"', "ג", "c\nd"))
    path = tmp_path / "own.csv"
    write_predictions(path, task, ["x,1", "y"], np.array([[0.5, 0.2, 0.3], [0.1, 0.2, 0.7]]), [2, 0])
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["id", "label", "prediction", 'p(a, "b")', "p(ג)", "p(c\nd)"]
    assert rows == [
        ["x,1", "c\nd", 'a, "b"', "0.5", "0.2", "0.3"],
        ["y", 'a, "b"', "c\nd", "0.1", "0.2", "0.7"],
    ]


def test_the_predictions_file_without_labels(tmp_path):
    write_predictions(tmp_path / "q.csv", QUORA, ["x"], np.array([0.25]))
    assert (tmp_path / "q.csv").read_text() == (
        "id,prediction,p(not a paraphrase),p(paraphrase)\nx,not a paraphrase,0.75,0.25\n"
    )
    write_predictions(tmp_path / "s.csv", STS, ["x"], np.array([2.5]), [5.0])
    assert (tmp_path / "s.csv").read_text() == "id,label,prediction\nx,5,2.5\n"


def test_a_written_answer_comes_back_as_it_was(tmp_path):
    answers = np.random.default_rng(0).uniform(0, 5, 50).astype(np.float32)
    write_predictions(tmp_path / "s.csv", STS, [str(n) for n in range(50)], answers)
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        read = [float(row["prediction"]) for row in csv.DictReader(file)]
    assert np.array_equal(np.array(read, dtype=np.float32), answers)
