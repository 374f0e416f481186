"""Tokens are in the segments they came from, scores are the methods' own, and what is shown is escaped and whole."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from qabert.cli import explain_main
from qabert.data import prompts
from qabert.data.prompts import PromptEncoder
from qabert.errors import InputError
from qabert.evaluation.saliency.explanations import (
    Explanation,
    explain,
    explain_rows,
    saliency_summary,
    sample_rows,
    summarise,
)
from qabert.evaluation.saliency.methods import baseline_token, integrated_gradients
from qabert.evaluation.saliency.pages import explanation_html, explanation_text, summary_html
from qabert.evaluation.saliency.tokens import SegmentEncoder, Word
from qabert.inference import Predictor
from qabert.modeling import QABertConfig, QABertModel
from qabert.tasks import PAPER_TASKS, QUORA, SST, STS, Task

PAIRS = [
    ("ab cd film.", "ef gh, film?"),
    ("ab Second sentence: cd", "Second sentence: ef First sentence: gh"),  # the template's own words
    (STS.question, "is {text_a} a [SEP] or {text_b}?"),
    ("ab cd " * 60 + "end", "xy " * 40),  # too long: both are cut
    ("ab", "yz " * 150),
]
NASTY = 'A <script>alert(\'x\')</script> & "it" 🙂 $5$ שלום\u202e \x1b[31m مرحبا <b title="q">.'


def make_predictor(encoder, tokenizer, **config) -> Predictor:
    torch.manual_seed(3)
    settings = {"input_format": "qa", "max_length": 96, "head_blocks": 1, "head_dropout": 0.0} | config
    model = QABertModel(
        QABertConfig(encoder=encoder.to_dict(), tasks=[task.to_dict() for task in PAPER_TASKS.values()], **settings)
    ).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(12)  # answers that differ between rows
    return Predictor(model, tokenizer)


@pytest.fixture(scope="module", params=["separate", "joint", "qa"])
def predictor(request, make_config, tokenizer):
    return make_predictor(make_config(), tokenizer, input_format=request.param)


@pytest.fixture(scope="module")
def asked(make_config, tokenizer):
    return make_predictor(make_config(), tokenizer)


# Segments


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("task", [SST, STS, QUORA], ids=lambda task: task.name)
@pytest.mark.parametrize("layout", ["separate", "joint", "qa"])
def test_segments_hold_the_tokens_of_their_texts(tokenizer, layout, task, pair):
    a, b = pair[0], pair[1] if task.pair else None
    encoder = SegmentEncoder(layout, tokenizer, task, 96)
    reading = encoder.read(a, b)
    expected = PromptEncoder(layout, tokenizer, task, 96)({"text_a": [a], "text_b": [b]})
    assert reading.feature == {key: values[0] for key, values in expected.items()}
    assert reading.tokens == [t for ids in expected["input_ids"][0] for t in tokenizer.convert_ids_to_tokens(ids)]
    found = {name: [t for t, s in zip(reading.tokens, reading.segments, strict=True) if s == name]
             for name in ("question", "template", "sentence_a", "sentence_b")}  # fmt: skip
    template = "First sentence: Second sentence:" if task.pair else ""
    assert found["question"] == (tokenizer.tokenize(task.question) if layout == "qa" else [])
    assert found["template"] == (tokenizer.tokenize(template) if layout == "qa" else [])
    for name, text in (("sentence_a", a), ("sentence_b", b or "")):
        tokens = tokenizer.tokenize(text)
        assert found[name] == tokens[: len(found[name])]
        assert reading.truncated or found[name] == tokens
        assert found[name] or not text
    assert reading.truncated == (max(map(len, expected["input_ids"][0])) == 96)


def test_byte_tokens_and_a_template_without_blanks(plain_tokenizer):
    task = dataclasses.replace(STS, name="x", context="({text_a})—({text_b})!")
    reading = SegmentEncoder("qa", plain_tokenizer, task, 300).read("né 🙂", "שלום é")
    words = {name: [w.text for w in reading.words if w.segment == name] for name in ("sentence_a", "template")}
    assert words == {"sentence_a": ["né", "🙂"], "template": ["(", ")—(", ")!"]}
    assert [w.text for w in reading.words if w.segment == "sentence_b"] == ["שלום", "é"]
    assert reading.segments.count("sentence_a") == len("né 🙂".encode())
    assert sorted(n for word in reading.words for n in word.tokens) == list(range(len(reading.tokens)))


@pytest.mark.parametrize("text", ["Unlovely filmqx, ab.", NASTY.replace("\u202e", "").replace("\x1b", "")])
def test_words_put_together_are_the_sentence(tokenizer, text):
    words = [w for w in SegmentEncoder("qa", tokenizer, SST, 128).read(text, None).words if w.segment == "sentence_a"]
    assert "".join(word.before + word.text for word in words) == text
    assert max(len(word.tokens) for word in words) > 1


def test_a_format_that_changes_its_sentences_is_refused(tokenizer, monkeypatch):
    monkeypatch.setitem(prompts.FORMATS, "loud", lambda task, a, b: [(a.upper(), None)])
    with pytest.raises(ValueError, match="'loud' changes the sentences"):
        SegmentEncoder("loud", tokenizer, SST, 64).read("ab", None)


# Rollout


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("kind", ["bert", "mpnet", "modernbert"])
def test_rollout_is_the_product_of_the_layers(make_config, tokenizer, kind, pooling):
    predictor = make_predictor(make_config(kind), tokenizer, pooling=pooling)
    encoder, before = predictor.model.encoder, predictor.model.encoder.config._attn_implementation
    short, long = explain_rows(predictor, "sts", [PAIRS[0], PAIRS[1]], ["rollout"])  # in one batch: one is padded
    assert encoder.config._attn_implementation == before
    for pair, explanation in zip(PAIRS, (short, long), strict=False):
        reading = SegmentEncoder("qa", tokenizer, STS, 96).read(*pair)
        batch = predictor.collator([reading.feature])
        encoder.set_attn_implementation("eager")
        batch.pop("task")
        with torch.no_grad():
            layers = encoder(**batch, output_attentions=True).attentions
        encoder.set_attn_implementation(before)
        product = np.eye(len(reading.tokens))
        for layer in layers:
            mixed = 0.5 * layer[0].mean(0).double().numpy() + 0.5 * np.eye(len(product))
            product = mixed / mixed.sum(-1, keepdims=True) @ product
        expected = product[0] if pooling == "first" else product.mean(0)
        np.testing.assert_allclose(explanation.scores["rollout"], expected, atol=1e-6)
        assert explanation.scores["rollout"].sum() == pytest.approx(1, abs=1e-5)
    assert np.ptp(short.scores["rollout"]) > (0.01 if pooling == "first" else 1e-4)


def test_each_sentence_of_a_separate_pair_has_half(make_config, tokenizer):
    predictor = make_predictor(make_config(), tokenizer, input_format="separate")
    explanation = explain(predictor, "sts", "ab cd", "ef gh ij kl mn", ["rollout"])
    words, scores = explanation.words, explanation.word_scores("rollout")
    for number in (0, 1):
        assert sum(s for w, s in zip(words, scores, strict=True) if w.input == number) == pytest.approx(0.5, abs=1e-5)


def test_an_encoder_without_attentions_is_refused_by_rollout_alone(tokenizer):
    from transformers import LongformerConfig, MambaConfig

    sizes = {"vocab_size": 800, "hidden_size": 16, "num_hidden_layers": 1, "pad_token_id": 0}
    windows = {"num_attention_heads": 2, "intermediate_size": 32, "attention_window": 4}
    for encoder in (
        MambaConfig(**sizes, state_size=4),
        LongformerConfig(**sizes, **windows, max_position_embeddings=130),
    ):
        predictor = make_predictor(encoder, tokenizer)
        with pytest.raises(InputError, match=f"'{encoder.model_type}'.*'gradients'"):
            explain(predictor, "sst", "ab cd")
        assert explain(predictor, "sst", "ab cd", methods=["gradients"], steps=2).gap is not None


# Integrated gradients


def test_gradients_are_those_of_the_definition(asked, tokenizer):
    """A Riemann sum over the path, with nothing of captum in it."""
    explanation = explain(asked, "sst", "ab cd film", methods=["gradients"], steps=64)
    feature = SegmentEncoder("qa", tokenizer, SST, 96).read("ab cd film", None).feature
    batch = asked.collator([feature])
    layer = asked.model.get_input_embeddings()
    special = torch.tensor([[s == "special" for s in explanation.segments]])
    start = layer(torch.where(special, batch["input_ids"], tokenizer.mask_token_id)).detach()
    end = layer(batch["input_ids"]).detach()
    label = SST.labels.index(explanation.answer["label"])
    total, steps = torch.zeros_like(end), 150
    for step in range(steps):
        point = (start + (step + 0.5) / steps * (end - start)).requires_grad_()
        hook = layer.register_forward_hook(lambda *_, point=point: point)
        asked.model(**batch).logits[0, label].backward()
        hook.remove()
        total += point.grad / steps
    expected = (total * (end - start)).sum(-1)[0].numpy()
    np.testing.assert_allclose(explanation.scores["gradients"], expected, atol=0.02 * np.abs(expected).max())
    assert explanation.target == f"the logit of '{explanation.answer['label']}'"


def test_the_change_is_the_models_and_more_steps_come_nearer(predictor, tokenizer):
    """A regression's in the unit of its range; special tokens count for nothing."""
    gaps = []
    for steps in (1, 8, 64):
        explanations = explain_rows(predictor, "sts", PAIRS[:3], ["gradients"], steps)
        gaps.append(np.mean([one.gap for one in explanations]))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[2] < 0.05 * np.mean([abs(one.change) for one in explanations])
    for pair, one in zip(PAIRS, explanations, strict=False):
        assert {s for s, t in zip(one.scores["gradients"], one.segments, strict=True) if t == "special"} == {0.0}
        reading = SegmentEncoder(predictor.model.config.input_format, tokenizer, STS, 96).read(*pair)
        batch = predictor.collator([reading.feature])
        masked = batch["input_ids"].clone()
        masked[batch["attention_mask"].bool() & ~torch.isin(masked, torch.tensor([2, 3]))] = tokenizer.mask_token_id
        if pair is PAIRS[2]:  # a written [SEP] is the sentence's
            continue
        with torch.no_grad():
            change = predictor.model(**batch).logits - predictor.model(**batch | {"input_ids": masked}).logits
        assert one.change == pytest.approx(float(change) * 5 / (2 * 3**0.5), abs=1e-5)


def test_a_batch_changes_nothing(predictor):
    """Which input of a pair is whose; padding; the order of the rows."""
    for task, rows in (("sts", PAIRS[:4]), ("sst", [(a, None) for a, _ in PAIRS[:4]]), ("quora", PAIRS[:4])):
        alone = [explain(predictor, task, *row, steps=4) for row in rows]
        together = explain_rows(predictor, task, rows, steps=4, batch_size=3)
        for one, other in zip(alone, together, strict=True):
            assert (one.tokens, one.segments, one.answer) == (other.tokens, other.segments, other.answer)
            for method in ("rollout", "gradients"):
                np.testing.assert_allclose(one.scores[method], other.scores[method], atol=2e-5)
            assert one.change == pytest.approx(other.change, abs=2e-5)


def test_a_padding_baseline_leaves_the_positions(plain_tokenizer):
    """RoBERTa counts positions by ids that aren't padding; the baseline's sum is for the row's own positions."""
    from transformers import RobertaConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(**sizes, vocab_size=300, pad_token_id=0, max_position_embeddings=400)
    predictor = make_predictor(config, plain_tokenizer, input_format="joint")
    assert baseline_token(predictor.model, plain_tokenizer) == 0
    explanation = explain(predictor, "sst", "ab cd film", methods=["gradients"], steps=128)
    assert explanation.gap < 0.02 * abs(explanation.change)


def test_a_frozen_encoder_is_explained_and_stays_frozen(make_config, tokenizer):
    free = make_predictor(make_config(), tokenizer)
    frozen = make_predictor(make_config(), tokenizer, freeze_encoder=True)
    scores = [explain(p, "sst", "ab cd", methods=["gradients"]).scores["gradients"] for p in (free, frozen)]
    np.testing.assert_allclose(*scores, atol=1e-6)
    assert frozen.model.config.freeze_encoder
    assert all(weights.grad is None for weights in free.model.parameters())


def test_the_answer_that_the_user_reads_is_explained(make_config, tokenizer):
    """With priors the likeliest class isn't the one of the largest logit."""
    plain = make_predictor(make_config(), tokenizer)
    said = explain(plain, "sst", "ab", methods=["gradients"]).answer["label"]
    priors = {"sst": [1e-9 if label == said else 0.25 for label in SST.labels], "quora": [0.5, 0.5]}
    told = explain(make_predictor(make_config(), tokenizer, priors=priors), "sst", "ab", methods=["gradients"], steps=2)
    assert told.answer["label"] != said
    assert told.target == f"the logit of '{told.answer['label']}'"
    reading = SegmentEncoder("qa", tokenizer, SST, 96).read("ab", None)
    batch = plain.collator([reading.feature])
    batch.pop("task")
    special = torch.tensor([[s == "special" for s in reading.segments]])
    masked = torch.where(special, batch["input_ids"], tokenizer.mask_token_id)
    target = torch.tensor([SST.labels.index(told.answer["label"])])
    _, change = integrated_gradients(plain.model, SST, batch, masked, target, 1)
    assert told.change == pytest.approx(float(change), abs=1e-6)
    assert explain(plain, "quora", "ab", "cd", ["gradients"], 1).target == "the logit of 'paraphrase'"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "stx"}, "unknown task 'stx'.*sts"),
        ({"methods": ["rolout"]}, "unknown method 'rolout' \\(did you mean 'rollout'"),
        ({"methods": []}, "at least one method"),
        ({"steps": 0}, "steps 0"),
        ({"text_b": None}, "takes two"),
    ],
)
def test_wrong_input_is_named(asked, given, said):
    with pytest.raises(InputError, match=said):
        explain(asked, **({"task": "sts", "text_a": "ab", "text_b": "cd"} | given))


def test_without_captum_gradients_say_what_to_install(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(InputError, match=r"captum.*pip install 'qabert\[report\]'"):
        explain(asked, "sst", "ab")
    assert explain(asked, "sst", "ab", methods=["rollout"]).gap is None


# Summaries


def explanation(words: list[tuple[str, str, float]], gap: float = 0.1, change: float = -2.0) -> Explanation:
    """An explanation by gradients with a token for each word."""
    return Explanation(
        task="sst",
        answer={"label": "positive", "probabilities": {"negative": 0.25, "positive": 0.75}},
        target="the logit of 'positive'",
        tokens=[word for word, _, _ in words],
        segments=[segment for _, segment, _ in words],
        words=[Word(word, " ", segment, 0, (n,)) for n, (word, segment, _) in enumerate(words)],
        scores={"gradients": np.array([score for _, _, score in words])},
        change=change,
        gap=gap,
        truncated=False,
    )


def test_a_summary_counts_as_it_says():
    first = [
        ("[CLS]", "special", 0.0),
        ("Is", "question", -1.0),
        ("Film", "sentence_a", 2.0),
        ("ab", "sentence_a", 1.0),
    ]
    second = [("[CLS]", "special", 0.0), ("Is", "question", 3.0), ("film", "sentence_a", -1.0)]
    cut = dataclasses.replace(explanation(second, gap=0.3, change=6.0), truncated=True)
    summary = summarise([explanation(first), cut], min_count=2)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    found = summary["methods"]["gradients"]
    assert (summary["rows"], summary["truncated"], summary["tokens"]["sentence_a"]) == (2, 1, 1.5)
    assert found["share"] == {
        "question": 0.5, "template": 0, "sentence_a": 0.5, "sentence_b": 0, "special": 0,
    }  # fmt: skip
    assert found["share_per_token"]["question"] == 0.5
    assert found["share_per_token"]["sentence_a"] == pytest.approx(0.5 / 1.5)
    assert found["words"] == [{"word": "film", "count": 2, "mean_absolute": 1.5, "mean": 0.5}]
    assert found["prompt_words"] == [{"word": "is", "count": 2, "mean_absolute": 2.0, "mean": 1.0}]
    relative = summary["completeness"].pop("relative")
    assert summary["completeness"] == {"gap": pytest.approx(0.2), "largest_gap": 0.3, "change": 4.0}
    assert relative == pytest.approx(0.05)
    assert not summarise([explanation(first)])["methods"]["gradients"]["words"]  # five are needed unasked
    nothing = summarise([explanation([("ab", "sentence_a", 0.0)], 0.0, 0.0)])
    assert nothing["methods"]["gradients"]["share"]["sentence_a"] == nothing["completeness"]["relative"] == 0


def test_shares_of_rows_sum_to_one(predictor):
    summary = saliency_summary(predictor, "quora", PAIRS, steps=2)
    for found in summary["methods"].values():
        assert sum(found["share"].values()) == pytest.approx(1)
        asks = predictor.model.config.input_format == "qa"
        assert (found["share"]["question"] > 0.01) == (found["share"]["template"] > 0.01) == asks


def test_a_sample_is_a_function_of_the_seed():
    rows = [{"text_a": str(n), "text_b": None} for n in range(50)]
    drawn = sample_rows(rows, 10, 1)
    assert drawn == sample_rows(rows, 10, 1) != sample_rows(rows, 10, 2)
    numbers = [int(a) for a, _ in drawn]
    assert numbers == sorted(set(numbers)) and len(numbers) == 10
    assert len(sample_rows(rows, 99, 1)) == 50


# Pages and figures


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.titles: list[str] = []
        self.rows: list[tuple[dict, list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not {name for name, _ in attrs} - {
            "class",
            "title",
            "style",
            "dir",
            "lang",
            "charset",
            "name",
            "content",
        }
        if tag == "span" and "title" in dict(attrs):
            self.titles.append(dict(attrs)["title"])
        if tag == "td":
            self.rows.append((dict(attrs), []))

    def handle_data(self, data):
        if self.rows:
            self.rows[-1][1].append(data)


def test_the_page_escapes_and_numbers_every_word(asked):
    one = explain(asked, "sst", NASTY, steps=2)
    text = explanation_html([one])
    page = Page(text)
    assert not page.tags & {"script", "b script", "link", "img", "a", "iframe"}
    assert "http" not in text and "\x1b" not in text and "src=" not in text
    assert all(attributes.get("dir") == "auto" for attributes, _ in page.rows)
    lines = ["".join(parts) for _, parts in page.rows]
    assert any("<script>alert('x')</script> & \"it\" 🙂 $5$ שלום" in line for line in lines)
    words = [f"{word.text}: " for word in one.words]
    assert len(page.titles) == 2 * len(words)
    assert all(any(title.startswith(word) for title in page.titles) for word in words if word.isascii())
    score = f"{one.word_scores('gradients')[1]:+.3f}"
    assert f"{one.words[1].text}: {score}" in page.titles


def test_labels_and_words_of_a_summary_are_escaped():
    nasty = [("[CLS]", "special", 0.0), ("<b>x</b>", "sentence_a", -2.0)]
    one = dataclasses.replace(explanation(nasty), answer={"label": "<i>", "probabilities": {"<i>": 1.0}})
    text = summary_html({"sst": summarise([one] * 5)}, {"sst": [one]})
    assert Page(text).tags.isdisjoint({"b x", "i"}) and text.count("&lt;b&gt;x&lt;/b&gt;") == 4
    assert "<b>x" not in text and "<i>" not in text
    assert ">-2.000<" in text and ">100.0 %<" in text


def test_the_terminal_gets_no_control_characters(asked):
    text = explanation_text(explain(asked, "sst", NASTY, steps=1))
    assert "\x1b" not in text and "\u202e" not in text and "שלום" in text


def test_inexact_gradients_and_cut_rows_are_told():
    one = explanation([("ab", "sentence_a", 1.0)], gap=0.1, change=-2.0)
    assert "take more steps" not in explanation_text(one) and "cut off" not in explanation_text(one)
    assert "take more steps" in explanation_html([dataclasses.replace(one, gap=0.3)])
    assert "cut off" in explanation_text(dataclasses.replace(one, truncated=True))


@pytest.mark.parametrize("text", ["ab.", NASTY, "ab cd ef gh " * 30])
def test_the_figure_has_a_bar_a_word_and_nothing_is_cut(asked, text, recwarn):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from qabert.evaluation.figures.style import figure_style
    from qabert.evaluation.saliency.figures import MAX_WORDS, explanation_figure

    one = explain(asked, "sst", text, steps=2)
    plain = [word for word in one.words if word.segment != "special"]
    figure = explanation_figure([one, one])
    with figure_style():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        assert len(figure.axes) == 4
        edge = figure.bbox
        for axes in figure.axes:
            assert len(axes.patches) == min(len(plain), MAX_WORDS)
            box = axes.get_tightbbox(canvas.get_renderer())
            assert edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 and box.y1 <= edge.y1
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        extents = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        assert all(upper.y0 >= lower.y1 - 2 for upper, lower in pairwise(extents))
        assert not any(label.get_parse_math() for label in figure.axes[0].get_yticklabels())
    if len(plain) <= MAX_WORDS:
        assert labels[:3] == ["Is", "this", "review"] and len(labels) == len(plain)
    else:
        assert f"({MAX_WORDS} strongest of {len(plain)} words)" in figure.axes[0].get_title(loc="left")
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_config, tokenizer) -> str:
    folder = tmp_path_factory.mktemp("model")
    predictor = make_predictor(make_config(), tokenizer)
    predictor.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_sentence_is_explained_in_the_terminal_a_page_and_a_picture(model, tmp_path, capsys):
    places = ["--html", str(tmp_path / "deep" / "why.html"), "--png", str(tmp_path / "why.png")]
    explain_main([model, "--task", "sst", "A lovely film.", *places, "--steps", "2", "--device", "cpu"])
    out = capsys.readouterr().out
    assert out.startswith("sst: ") and "lovely" in out and "sentence_a" in out and "rollout  gradients" in out
    assert "lovely" in (tmp_path / "deep" / "why.html").read_text(encoding="utf-8")
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "why.png"]


def test_dev_rows_are_summarised_alike_for_the_same_seed(model, course_folder, tmp_path, capsys):
    flags = ["--data", str(course_folder), "--rows", "6", "--steps", "2", "--batch_size", "4"]
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        explain_main([model, *flags, "--seed", seed, "--output_dir", str(tmp_path / folder)])
    out = capsys.readouterr().out
    assert "quora" in out and "saliency.html" in out
    read = {f: (tmp_path / f / "saliency.json").read_text(encoding="utf-8") for f in "abc"}
    assert read["a"] == read["b"] != read["c"]
    summary = json.loads(read["a"])
    assert set(summary["tasks"]) == set(PAPER_TASKS) and summary["tasks"]["sts"]["rows"] == 6
    assert (summary["seed"], summary["steps"], summary["split"], summary["input_format"]) == (1, 2, "dev", "qa")
    page = (tmp_path / "a" / "saliency.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 3 + 3 * 4 and str(tmp_path) not in page + read["a"]
    explain_main([model, *flags, "--task", "sts", "--methods", "rollout", "--output_dir", str(tmp_path / "d")])
    summary = json.loads((tmp_path / "d" / "saliency.json").read_text())["tasks"]
    assert list(summary) == ["sts"] and list(summary["sts"]["methods"]) == ["rollout"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "either a sentence"),
        (["ab", "--data", "demo"], "either a sentence"),
        (["--data", "demo"], "--output_dir go together"),
        (["ab", "--output_dir", "x"], "--output_dir go together"),
        (["--data", "demo", "--output_dir", "x", "--png", "x.png"], "--png go with sentences"),
        (["ab", "--methods", "gradient", "--task", "sst"], "did you mean 'gradients'"),
        (["ab"], "several tasks"),
        (["ab", "--task", "sts"], "takes 2 sentence"),
        (["ab", "--task", "sst", "--png", "."], "is a folder"),
        (["--data", "nowhere", "--output_dir", "x"], "no such folder"),
    ],
)
def test_wrong_flags_are_named_before_anything_is_loaded(model, flags, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (Path(model) / "model.safetensors").rename(tmp_path / "weights")
    try:
        with pytest.raises(SystemExit) as stop:
            explain_main([model, *flags])
    finally:
        (tmp_path / "weights").rename(Path(model) / "model.safetensors")
    assert stop.value.code == 2 and said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom qabert.cli import explain_main\ntry: explain_main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'captum', 'matplotlib') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--png" in out and out.endswith("[]\n")


def test_a_task_of_ones_own_with_an_odd_layout(make_config, tokenizer):
    """The question inside the context is the question still; text after the sentence is the template's."""
    task = Task(
        name="own", problem="binary", question="ab cd?", context="{text_a} ef ab cd? gh", columns={"text_a": "t"}
    )
    reading = SegmentEncoder("qa", tokenizer, task, 64).read("xy zz", None)
    found = [(word.text, word.segment) for word in reading.words if word.segment != "special"]
    assert found == [
        ("ab", "question"), ("cd", "question"), ("?", "question"), ("xy", "sentence_a"), ("zz", "sentence_a"),
        ("ef", "template"), ("ab", "question"), ("cd", "question"), ("?", "question"), ("gh", "template"),
    ]  # fmt: skip
