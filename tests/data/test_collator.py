"""The collator: segments stacked along the batch axis, and the model's way back."""

from __future__ import annotations

import pytest
import torch

from qabert.data.collator import DataCollator
from qabert.data.prompts import FORMATS, PromptEncoder
from qabert.modeling import QABertConfig, QABertModel
from qabert.tasks import SST, STS, Task

PAIR = Task(name="pair", problem="binary", question="Is it so?", columns={"text_b": "b"})
TEXTS = [("ab cd ef gh", "ij"), ("kl", "mn op qr st uv")]


def features(tokenizer, task=PAIR, input_format="separate", texts=TEXTS, labels=None):
    rows = {"text_a": [a for a, _ in texts], "text_b": [b if task.pair else None for _, b in texts], "label": labels}
    if labels is None:
        del rows["label"]
    encoded = PromptEncoder(input_format, tokenizer, task, 100)(rows)
    return [{key: values[n] for key, values in encoded.items()} for n in range(len(texts))]


def test_first_segments_come_before_second_ones(tokenizer):
    batch = DataCollator(tokenizer)(features(tokenizer))
    found = [
        [int(i) for i, m in zip(*row, strict=True) if m]
        for row in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert found == [tokenizer(text)["input_ids"] for text in ("ab cd ef gh", "kl", "ij", "mn op qr st uv")]


def test_padding_is_masked_and_as_short_as_can_be(tokenizer):
    batch = DataCollator(tokenizer)(features(tokenizer))
    assert batch["input_ids"].shape == (4, 7)
    assert batch["attention_mask"].sum(-1).tolist() == [6, 3, 3, 7]
    assert torch.equal(batch["input_ids"] == tokenizer.pad_token_id, batch["attention_mask"] == 0)
    for mask in batch["attention_mask"].tolist():
        assert mask == sorted(mask, reverse=True)  # padded on the right: the first token stays the first


def test_length_is_rounded_up_for_a_gpu(tokenizer):
    batch = DataCollator(tokenizer, pad_to_multiple_of=8)(features(tokenizer))
    assert {batch[key].shape for key in ("input_ids", "attention_mask", "token_type_ids")} == {(4, 8)}


@pytest.mark.parametrize("input_format", ["joint", "qa"])
def test_one_segment_makes_one_row(tokenizer, input_format):
    assert len(DataCollator(tokenizer)(features(tokenizer, input_format=input_format))["input_ids"]) == 2


def test_labels_come_first_and_keep_their_kind(tokenizer):
    """The Trainer takes the first tensor's first axis for the batch size."""
    batch = DataCollator(tokenizer)(features(tokenizer, labels=[1, 0]))
    assert next(iter(batch)) == "labels"
    assert batch["labels"].dtype == torch.int64 and batch["labels"].tolist() == [1, 0]
    batch = DataCollator(tokenizer)(features(tokenizer, STS, labels=[0.5, 5.0]))
    assert batch["labels"].dtype.is_floating_point and batch["labels"].tolist() == [0.5, 5.0]


def test_rows_without_labels_make_none(tokenizer):
    assert "labels" not in DataCollator(tokenizer)(features(tokenizer))


def test_batch_names_its_task(tokenizer):
    assert DataCollator(tokenizer)(features(tokenizer))["task"] == "pair"


def test_mixed_tasks_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"holds \['pair', 'sst'\]: use a TaskBatchSampler"):
        DataCollator(tokenizer)(features(tokenizer) + features(tokenizer, SST))


def test_token_types_only_where_the_tokenizer_makes_them(tokenizer, plain_tokenizer):
    assert "token_type_ids" in DataCollator(tokenizer)(features(tokenizer))
    batch = DataCollator(plain_tokenizer)(features(plain_tokenizer))
    assert sorted(batch) == ["attention_mask", "input_ids", "task"]


def test_features_are_left_as_they_were(tokenizer):
    given = features(tokenizer)
    DataCollator(tokenizer)(given)
    assert given == features(tokenizer)


def model_of(make_config, input_format):
    torch.manual_seed(0)
    config = QABertConfig(encoder=make_config().to_dict(), tasks=[PAIR.to_dict()], input_format=input_format)
    return QABertModel(config).eval()


def test_model_folds_the_segments_back(tokenizer, make_config):
    model = model_of(make_config, "separate")
    with torch.no_grad():
        logits = model(**DataCollator(tokenizer)(features(tokenizer))).logits
        for row, (a, b) in enumerate(TEXTS):
            first, second = (
                model.encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[:, 0] for text in (a, b)
            )
            by_hand = model.heads["head_pair"](torch.cat([first, second], dim=-1))
            torch.testing.assert_close(logits[row], by_hand[0])


@pytest.mark.parametrize("input_format", FORMATS)
def test_row_is_answered_alike_alone_and_in_a_batch(tokenizer, make_config, input_format):
    model, collate = model_of(make_config, input_format), DataCollator(tokenizer)
    rows = features(tokenizer, input_format=input_format)
    with torch.no_grad():
        together = model(**collate(rows)).logits
        alone = torch.cat([model(**collate([row])).logits for row in rows])
    assert together.shape == (2, 1)
    torch.testing.assert_close(together, alone)
