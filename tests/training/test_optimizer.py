"""Learning rates by layer: of every kind of encoder, in the optimizer, and after a resume."""

from __future__ import annotations

import pytest
import torch

from qabert.modeling import QABertModel
from qabert.tasks import SST
from qabert.training.optimizer import learning_rates


@pytest.mark.parametrize("kind", ["bert", "mpnet", "modernbert"])
def test_each_layer_learns_slower_than_the_one_above(kind, make_config, tmp_path):
    from transformers import AutoModel

    AutoModel.from_config(make_config(kind)).save_pretrained(tmp_path)
    model = QABertModel.from_encoder(str(tmp_path), tasks=[SST.to_dict()], head_blocks=1)
    rates = learning_rates(model, 1.0, 7.0, 0.5)
    assert set(rates) == {name for name, _ in model.named_parameters()}
    for name, rate in rates.items():
        if name.startswith("heads."):
            expected = 7.0
        elif "layer.1." in name or "layers.1." in name or "final_norm" in name:
            expected = 1.0
        elif "layer.0." in name or "layers.0." in name:
            expected = 0.5
        else:  # embeddings, and the positions that MPNet's layers share
            expected = 0.25
        assert rate == expected, name


def test_the_optimizer_has_them_and_keeps_what_is_not_decayed(make_trainer):
    trainer = make_trainer(trainer={"learning_rate": 1e-3}, layer_decay=0.5)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    wanted = learning_rates(trainer.model, 1e-3, None, 0.5)
    usual = make_trainer(trainer={"learning_rate": 1e-3}, folder="usual")
    groups = usual.create_optimizer().param_groups
    of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    plain = {name: of[id(parameter)] for name, parameter in usual.model.named_parameters()}
    assert set(plain.values()) == {0.0, 0.01}
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            assert group["lr"] == pytest.approx(wanted[name])
            assert group["weight_decay"] == plain[name]
    assert sorted(seen) == sorted(names.values())


def test_a_resumed_run_is_the_uninterrupted_one(make_trainer):
    keys = {"num_train_epochs": 2, "save_strategy": "epoch", "learning_rate": 1e-3}
    whole = make_trainer(trainer=keys, layer_decay=0.5, folder="whole")
    whole.train()
    half = make_trainer(trainer=keys, layer_decay=0.5, folder="half")
    step = whole.state.global_step // 2
    half.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
    for (name, one), other in zip(whole.model.named_parameters(), half.model.parameters(), strict=True):
        assert torch.equal(one, other), name
