"""Prompts: the exact token ids of every format, and what is cut where a row is too long."""

from __future__ import annotations

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from qabert.data.prompts import FORMATS, PromptEncoder, qa
from qabert.errors import InputError
from qabert.tasks import PAPER_TASKS, QUORA, SST, STS, Task

PAIR = Task(name="pair", problem="binary", question="Is it so?", columns={"text_b": "b"})
ONE = Task(name="one", problem="binary", question="Is it so?", context="x: {text_a}")
#: Each of these words is one token of the tiny tokenizer, and none is in the contexts.
A_WORDS, B_WORDS = (["".join((first, chr(n))) for n in range(97, 123)] for first in "jk")


def rows(*texts, labels=None):
    """A batch of rows of `(text_a, text_b)`."""
    batch = {
        "text_a": [a for a, _ in texts],
        "text_b": [b for _, b in texts],
        "id": [str(n) for n in range(len(texts))],
    }
    return batch | ({"label": labels} if labels is not None else {})


def encode(input_format, tokenizer, task, *texts, max_length=100, **more):
    return PromptEncoder(input_format, tokenizer, task, max_length)(rows(*texts, **more))


def by_hand(tokenizer, *texts):
    return tokenizer(*texts)["input_ids"]


# --- exact ids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("input_format", ["separate", "joint"])
def test_one_sentence_without_a_question(tokenizer, input_format):
    features = encode(input_format, tokenizer, SST, ("ab cd.", None))
    assert features["input_ids"] == [[by_hand(tokenizer, "ab cd.")]]


def test_pair_in_separate_makes_two_inputs(tokenizer):
    features = encode("separate", tokenizer, QUORA, ("ab cd", "ef"))
    assert features["input_ids"] == [[by_hand(tokenizer, "ab cd"), by_hand(tokenizer, "ef")]]


def test_pair_in_joint_makes_one_input(tokenizer):
    features = encode("joint", tokenizer, QUORA, ("ab cd", "ef"))
    assert features["input_ids"] == [[by_hand(tokenizer, "ab cd", "ef")]]
    assert features["input_ids"][0][0].count(tokenizer.sep_token_id) == 2


def test_one_sentence_in_qa(tokenizer):
    features = encode("qa", tokenizer, SST, ("ab cd", None))
    assert features["input_ids"] == [[by_hand(tokenizer, "Is this review positive or negative?", "ab cd")]]


def test_pair_in_qa(tokenizer):
    features = encode("qa", tokenizer, STS, ("ab cd", "ef"))
    question = "Is the first sentence semantically equivalent to the second sentence?"
    wanted = by_hand(tokenizer, question, "First sentence: ab cd Second sentence: ef")
    assert features["input_ids"] == [[wanted]]


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("sst", "[CLS] is this review positive or negative? [SEP] ab cd [SEP]"),
        (
            "quora",
            "[CLS] does the first question paraphrase the second question? [SEP] "
            "first sentence : ab cd second sentence : ef [SEP]",
        ),
        (
            "sts",
            "[CLS] is the first sentence semantically equivalent to the second sentence? [SEP] "
            "first sentence : ab cd second sentence : ef [SEP]",
        ),
    ],
)
def test_qa_reads_as_table_1_of_the_paper(tokenizer, task, text):
    task = PAPER_TASKS[task]
    (((ids,),)) = encode("qa", tokenizer, task, ("ab cd", "ef" if task.pair else None))["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert " ".join(pieces).replace(" ##", "").replace(" ?", "?") == text


def test_token_types_mark_the_second_text(tokenizer):
    features = encode("qa", tokenizer, ONE, ("ab", None))
    (types,) = features["token_type_ids"][0]
    question = len(by_hand(tokenizer, "Is it so?"))
    assert types == [0] * question + [1] * (len(types) - question)


@pytest.mark.parametrize("input_format", FORMATS)
def test_tokenizer_without_token_types_makes_none(plain_tokenizer, input_format):
    assert "token_type_ids" not in encode(input_format, plain_tokenizer, PAIR, ("ab", "cd"))


def test_byte_level_ids(plain_tokenizer):
    features = encode("joint", plain_tokenizer, PAIR, ("é", "b"))
    assert features["input_ids"] == [[by_hand(plain_tokenizer, "é", "b")]]
    assert features["length"] == [6]  # <s> two bytes </s> b </s>


# --- sentences are plain text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{text_a}", "{text_b}", "{{}}", "{", "}", "\0a", "\0", "%s {0}", "\\1", "[SEP", "{0!r}"]
)
def test_marks_inside_a_sentence_are_text(text):
    assert qa(PAIR, text, "other") == [("Is it so?", f"First sentence: {text} Second sentence: other")]
    assert qa(PAIR, "other", text) == [("Is it so?", f"First sentence: other Second sentence: {text}")]


@given(st.text(), st.text())
def test_context_is_filled_as_str_format_would(text_a, text_b):
    task = Task(name="t", problem="binary", question="?", columns={"text_b": "b"}, context="{{{text_b}}} \0 {text_a}}}")
    assert qa(task, text_a, text_b) == [("?", task.context.format(text_a=text_a, text_b=text_b))]


def test_escaped_field_of_the_context_is_text():
    task = Task(name="t", problem="binary", question="?", context="{{text_a}} is {text_a}")
    assert qa(task, "so", None) == [("?", "{text_a} is so")]


# --- labels, names, batches -------------------------------------------------------------------------------------------


def test_labels_pass_through(tokenizer):
    assert encode("joint", tokenizer, STS, ("a", "b"), ("c", "d"), labels=[2.5, 0.0])["labels"] == [2.5, 0.0]


@pytest.mark.parametrize("labels", [None, [None, None], [1, None]])
def test_rows_without_labels_make_none(tokenizer, labels):
    assert "labels" not in encode("joint", tokenizer, PAIR, ("a", "b"), ("c", "d"), labels=labels)


def test_every_row_names_its_task(tokenizer):
    assert encode("joint", tokenizer, PAIR, ("a", "b"), ("c", "d"))["task"] == ["pair", "pair"]


def test_length_is_that_of_the_longest_input(tokenizer):
    assert encode("separate", tokenizer, PAIR, ("ab", "ab cd ef"))["length"] == [5]


sentences = st.lists(st.sampled_from(A_WORDS), min_size=1, max_size=14).map(" ".join)
texts = st.text(min_size=1, max_size=30)


@given(st.sampled_from(list(FORMATS)), st.lists(st.tuples(sentences, sentences), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_batch_is_its_rows_one_by_one(tokenizer, input_format, pairs):
    encoder = PromptEncoder(input_format, tokenizer, PAIR, 40)
    together = encoder(rows(*pairs))
    alone = [encoder(rows(pair)) for pair in pairs]
    assert together == {key: [value for one in alone for value in one[key]] for key in together}


@pytest.mark.parametrize("input_format", FORMATS)
def test_maps_a_dataset(tokenizer, input_format):
    columns = {**rows(*[("ab cd", "ef")] * 5, labels=[0, 1, 0, 1, 1])}
    dataset = datasets.Dataset.from_dict(columns)
    encoder = PromptEncoder(input_format, tokenizer, PAIR, 100)
    mapped = dataset.map(encoder, batched=True, batch_size=2, remove_columns=dataset.column_names)
    assert mapped.to_dict() == encoder(columns)


# --- truncation -------------------------------------------------------------------------------------------------------


def kept(ids, words, tokenizer):
    """The tokens of `words` among `ids`, as words."""
    return [word for word in tokenizer.convert_ids_to_tokens(ids) if word in words]


@given(
    st.sampled_from(["joint", "qa"]),
    st.lists(st.sampled_from(A_WORDS), min_size=1, max_size=60),
    st.lists(st.sampled_from(B_WORDS), min_size=1, max_size=60),
    st.integers(36, 70),
)
@settings(deadline=None, max_examples=80)
def test_pair_is_cut_from_its_longer_sentence(tokenizer, input_format, a, b, max_length):
    features = encode(input_format, tokenizer, PAIR, (" ".join(a), " ".join(b)), max_length=max_length)
    (((ids,),), (truncated,)) = features["input_ids"], features["truncated"]
    left_a, left_b = kept(ids, A_WORDS, tokenizer), kept(ids, B_WORDS, tokenizer)
    assert len(left_a) >= 1 and left_a == a[: len(left_a)]
    assert len(left_b) >= 1 and left_b == b[: len(left_b)]
    cut_a, cut_b = len(left_a) < len(a), len(left_b) < len(b)
    assert truncated == (cut_a or cut_b)
    assert len(ids) == max_length if truncated else len(ids) <= max_length
    if cut_a:
        assert len(left_a) >= len(left_b) - 1
    if cut_b:
        assert len(left_b) >= len(left_a) - 1
    text = FORMATS[input_format](PAIR, " ".join(left_a), " ".join(left_b))
    assert ids == by_hand(tokenizer, *text[0])


@given(
    st.lists(st.sampled_from(A_WORDS), min_size=1, max_size=20),
    st.lists(st.sampled_from(B_WORDS), min_size=1, max_size=20),
    st.integers(6, 16),
)
@settings(deadline=None, max_examples=40)
def test_separate_cuts_each_sentence_alone(tokenizer, a, b, max_length):
    features = encode("separate", tokenizer, PAIR, (" ".join(a), " ".join(b)), max_length=max_length)
    first, second = features["input_ids"][0]
    assert kept(first, A_WORDS, tokenizer) == a[: max_length - 2]
    assert kept(second, B_WORDS, tokenizer) == b[: max_length - 2]
    assert features["truncated"] == [max(len(a), len(b)) > max_length - 2]


@given(st.sampled_from(list(FORMATS)), texts, texts, st.integers(32, 60), st.booleans())
@settings(deadline=None, max_examples=150)
def test_no_text_is_too_much(tokenizer, plain_tokenizer, input_format, a, b, max_length, plain):
    """Any Unicode text: never longer than asked, the question whole, untouched where it fits."""
    chosen = plain_tokenizer if plain else tokenizer
    task = Task(name="t", problem="binary", question="So?", columns={"text_b": "b"}, context="{text_a} - {text_b}")
    features = encode(input_format, chosen, task, (a, b), max_length=max_length)
    direct = [by_hand(chosen, *(t for t in text if t is not None)) for text in FORMATS[input_format](task, a, b)]
    assert features["truncated"] == [max(map(len, direct)) > max_length]
    if not features["truncated"][0]:
        assert features["input_ids"] == [direct]
    assert max(map(len, features["input_ids"][0])) == features["length"][0] <= max_length
    for ids in features["input_ids"][0]:
        assert ids[-1] == chosen.sep_token_id
    if input_format == "qa":
        question = by_hand(chosen, "So?")
        assert features["input_ids"][0][0][: len(question)] == question


def test_cut_ends_at_a_character_where_a_character_has_several_tokens(plain_tokenizer):
    features = encode("joint", plain_tokenizer, SST, ("€" * 9, None), max_length=10)
    ((ids,),) = features["input_ids"]
    assert ids == by_hand(plain_tokenizer, "€€")


def test_only_rows_that_are_too_long_are_marked(tokenizer):
    features = encode("joint", tokenizer, SST, ("ab", None), ("ab " * 20, None), ("cd", None), max_length=8)
    assert features["truncated"] == [False, True, False]
    assert features["length"] == [3, 8, 3]


def test_row_that_fits_exactly_is_left_whole(tokenizer):
    features = encode("joint", tokenizer, SST, ("ab " * 6, None), max_length=8)
    assert (features["length"], features["truncated"]) == ([8], [False])


def test_token_types_are_cut_with_the_tokens(tokenizer):
    features = encode("qa", tokenizer, PAIR, ("ab " * 50, "cd " * 50), max_length=40)
    assert len(features["token_type_ids"][0][0]) == len(features["input_ids"][0][0]) == 40


# --- what can't work --------------------------------------------------------------------------------------------------


def test_unknown_format_is_refused(tokenizer):
    with pytest.raises(
        InputError, match=r"unknown format 'jont' \(did you mean 'joint'\?\); known: joint, qa, separate"
    ):
        PromptEncoder("jont", tokenizer, SST, 64)


def test_question_that_leaves_no_room_is_refused(tokenizer):
    bare = len(by_hand(tokenizer, SST.question, ""))
    message = f"max_length {bare + 1}: the question and special tokens of task 'sst' take {bare} of them.* leaves 1 for"
    with pytest.raises(InputError, match=message):
        PromptEncoder("qa", tokenizer, SST, bare + 1)
    PromptEncoder("qa", tokenizer, SST, bare + 2)


def test_slow_tokenizer_is_refused():
    with pytest.raises(InputError, match=r"tokenizer \(ByT5Tokenizer\) is a slow one"):
        PromptEncoder("qa", ByT5Tokenizer(), SST, 64)
