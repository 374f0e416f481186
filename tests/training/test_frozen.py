"""A frozen encoder sees each row once, and the heads learn what they would have learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qabert.errors import RunError
from qabert.tasks import PAPER_TASKS
from qabert.training import run
from qabert.training.frozen import FrozenFeatures
from qabert.training.recipes import parse

SETTINGS = {"learning_rate": 1e-2, "num_train_epochs": 3, "eval_strategy": "epoch"}


@pytest.fixture
def seen(monkeypatch):
    """Rows that encoders have been given, as `segments × rows`; kept by wrapping `QABertModel.embed`."""
    from qabert.modeling import QABertModel

    rows: list[tuple[int, ...]] = []
    embed = QABertModel.embed

    def counted(self, input_ids, attention_mask=None, token_type_ids=None, segments=1):
        assert not self.encoder.training
        parts = input_ids.chunk(segments)
        rows.extend(tuple(torch.cat(ids).tolist()) for ids in zip(*parts, strict=True))
        return embed(self, input_ids, attention_mask, token_type_ids, segments)

    monkeypatch.setattr(QABertModel, "embed", counted)
    return rows


def features_of(course_features, split):
    return {name: FrozenFeatures(splits[split]) for name, splits in course_features.items()}


def test_losses_scores_and_weights_are_those_of_the_encoder_run_every_time(make_trainer, course_features, seen):
    """With dropout in the heads: the encoder draws no random number in either way."""
    model = {"freeze_encoder": True, "head_dropout": 0.3}
    plain = make_trainer(trainer=SETTINGS, model=model, folder="plain")
    plain.train()
    every_time = len(seen)
    seen.clear()
    data = {"train_dataset": features_of(course_features, "train"), "eval_dataset": features_of(course_features, "dev")}
    once = make_trainer(trainer=SETTINGS, model=model, folder="once", **data)
    once.train()

    offsets = np.cumsum([0, *(len(course_features[name]["train"]) for name in PAPER_TASKS)])
    drawn = set()
    for epoch in range(3):
        once.sampler.set_epoch(epoch)
        drawn |= {row for batch in once.sampler for row in batch}
    assert len(drawn) < offsets[-1], "some rows are never drawn, or nothing shows that those aren't embedded"
    assert len(seen) == len(drawn) + sum(len(course_features[name]["dev"]) for name in PAPER_TASKS)
    assert len(seen) < every_time

    curves = [
        [
            tuple(entry.get(key, 0.0) for key in ("loss", "grad_norm", "eval_score"))
            for entry in trainer.state.log_history
        ]
        for trainer in (plain, once)
    ]
    assert len(curves[0]) == len(curves[1]) > 9
    for first, second in zip(*curves, strict=True):
        assert first == pytest.approx(second, rel=1e-3, abs=1e-5)
    for (name, first), (_, second) in zip(*(t.model.named_parameters() for t in (plain, once)), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4, msg=name)


def test_no_memory_for_an_embedding_says_what_to_lower(make_trainer, course_features, monkeypatch):
    from qabert.modeling import QABertModel

    def embed(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    monkeypatch.setattr(QABertModel, "embed", embed)
    data = {"train_dataset": features_of(course_features, "train")}
    trainer = make_trainer(trainer=SETTINGS, model={"freeze_encoder": True}, **data)
    with pytest.raises(RunError, match=r"rows of task 'sst' were embedded, 8 at a time; lower per_device_eval_batch"):
        trainer.train()


def test_selections_share_what_is_embedded(course_features):
    calls = []

    def embed(batch):
        calls.append(len(batch))
        return torch.tensor([[float(row["labels"]), float(row["length"])] for row in batch])

    features = course_features["sts"]["train"]
    whole = FrozenFeatures(features)
    some = whole.select([5, 3, 9]).select([2, 0])
    assert len(some) == 2
    assert list(some["length"]) == [features["length"][9], features["length"][5]]
    with pytest.raises(KeyError, match="row 9 hasn't been embedded"):
        some[0]
    some.fill(embed, 2, quiet=True)
    assert calls == [2]
    assert whole[9]["embedding"].tolist() == some[0]["embedding"].tolist()
    assert some[0]["embedding"].tolist() == pytest.approx([features[9]["labels"], some["length"][0]])
    assert whole[9]["labels"] == features[9]["labels"]
    whole.select([9, 9, 5, 0]).fill(embed, 2, quiet=True)
    assert calls == [2, 1]
    whole.select([]).fill(embed, 2, quiet=True)
    assert calls == [2, 1]


@pytest.mark.parametrize(("form", "both"), [("qa", "false"), ("separate", "false"), ("joint", "true")])
def test_a_run_embeds_each_row_once_and_goes_on_as_the_whole_one(
    form, both, encoder_path, course_folder, tmp_path, seen
):
    words = (
        f"--data {course_folder} --encoder {encoder_path} --format {form} --max_length 128 --head_blocks 1 "
        "--use_cpu true --disable_tqdm true --freeze_encoder true --num_train_epochs 2 --learning_rate 1e-2 "
        "--logging_steps 1 --eval_examples sst=7,sts=8 --save_strategy steps --save_steps 5 --eval_strategy steps "
        f"--eval_steps 5 --save_total_limit 20 --score_untrained true --both_orders {both}"
    ).split()
    whole = run.train(parse([*words, "--output_dir", str(tmp_path / "whole")]))
    counts = {row: seen.count(row) for row in seen}
    repeated = {row for row, count in counts.items() if count > 1}
    assert len(repeated) <= 1  # `try_out` embeds a sentence of its own, for each model that is built
    again = run.train(
        parse([*words, "--output_dir", str(tmp_path / "again"), "--resume", str(tmp_path / "whole" / "checkpoint-10")])
    )
    assert again["scores"] == whole["scores"]
    assert again["untrained"] == whole["untrained"]
