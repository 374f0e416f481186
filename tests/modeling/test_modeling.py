"""The model: shapes, what is saved and loaded, which weights learn; with three kinds of encoders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from qabert.modeling import QABertConfig, QABertModel
from qabert.modeling.heads import Head
from qabert.modeling.modeling_qabert import set_dropout
from qabert.tasks import PAPER_TASKS, QUORA, SST, STS, Task

KINDS = ("bert", "mpnet", "modernbert")
OUTPUTS = {"sst": 5, "sts": 1, "quora": 1}
LABELS = {
    "sst": torch.tensor([0, 4, 2, 1]),
    "sts": torch.tensor([0.0, 5.0, 2.5, 1.0], dtype=torch.float64),
    "quora": torch.tensor([0, 1, 1, 0]),
}
TASKS = [task.to_dict() for task in PAPER_TASKS.values()]


def build(encoder, **values):
    torch.manual_seed(0)
    return QABertModel(QABertConfig(**({"encoder": encoder.to_dict(), "tasks": TASKS} | values)))


def batch(rows=4, length=9, seed=0):
    """Random token ids; rows get shorter, and what is missing is padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 700, (rows, length), generator=generator)
    mask = (torch.arange(length) < (length - torch.arange(rows) % 4)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def inputs(task, input_format="qa"):
    """Four rows of the task."""
    return batch(8 if input_format == "separate" and PAPER_TASKS[task].pair else 4) | {"task": task}


@pytest.fixture(params=KINDS)
def encoder(request, make_config):
    return make_config(request.param)


@pytest.fixture
def bert(make_config):
    return make_config("bert")


# --- forward ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("input_format", ["qa", "separate"])
@pytest.mark.parametrize("task", OUTPUTS)
def test_shapes_with_every_encoder(encoder, task, input_format):
    model = build(encoder, input_format=input_format).eval()
    output = model(**inputs(task, input_format), labels=LABELS[task])
    segments = 2 if input_format == "separate" and PAPER_TASKS[task].pair else 1
    assert output.logits.shape == (4, OUTPUTS[task])
    assert output.embedding.shape == (4, segments * 16)
    assert output.loss.shape == () and torch.isfinite(output.loss)


def test_no_labels_no_loss(bert):
    assert build(bert)(**inputs("sst")).loss is None


def test_embedding_is_the_first_tokens_final_hidden_state(encoder):
    model = build(encoder).eval()
    given = batch()
    with torch.no_grad():
        hidden = model.encoder(**given).last_hidden_state
        assert torch.equal(model(**given, task="sst").embedding, hidden[:, 0])


def test_mean_pooling_is_the_mean_of_the_tokens_without_padding(encoder):
    model, given = build(encoder, pooling="mean", input_format="separate").eval(), batch(4, 12)
    with torch.no_grad():
        hidden = model.encoder(**given).last_hidden_state
        lengths = given["attention_mask"].sum(1).tolist()
        assert len(set(lengths)) > 1
        means = torch.stack([row[:length].mean(0) for row, length in zip(hidden, lengths, strict=True)])
        torch.testing.assert_close(model(**given, task="sst").embedding, means)
        pair = model(**given, task="sts").embedding
        torch.testing.assert_close(pair, torch.cat([means[:2], means[2:]], dim=-1))


def test_unknown_pooling_is_named(bert):
    with pytest.raises(ValueError, match="'pooling' has 'max'"):
        build(bert, pooling="max")(**batch(4), task="sst")


def test_segments_lie_side_by_side(bert):
    model = build(bert, input_format="separate").eval()
    given = batch(8)
    with torch.no_grad():
        first = model.encoder(**given).last_hidden_state[:, 0]
        assert torch.equal(model(**given, task="quora").embedding, torch.cat([first[:4], first[4:]], dim=-1))


def test_token_types_reach_the_encoder(bert):
    model, given = build(bert).eval(), inputs("sst")
    types = torch.zeros_like(given["input_ids"])
    types[:, 4:] = 1
    with torch.no_grad():
        plain = model(**given).logits
        assert torch.equal(model(**given, token_type_ids=torch.zeros_like(types)).logits, plain)
        assert not torch.equal(model(**given, token_type_ids=types).logits, plain)


def test_padding_changes_no_answer(encoder):
    model, given = build(encoder).eval(), batch(4, 12)
    with torch.no_grad():
        together = model(**given, task="sst").logits
        for row in range(4):
            length = int(given["attention_mask"][row].sum())
            alone = {key: value[row : row + 1, :length] for key, value in given.items()}
            torch.testing.assert_close(model(**alone, task="sst").logits, together[row : row + 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("task", OUTPUTS)
def test_loss_is_the_mean_over_rows(bert, task):
    model, given, labels = build(bert).eval(), inputs(task), LABELS[task]
    with torch.no_grad():
        rows = [
            model(
                given["input_ids"][n : n + 1], given["attention_mask"][n : n + 1], task=task, labels=labels[n : n + 1]
            )
            for n in range(4)
        ]
        whole = model(**given, labels=labels).loss
    assert whole.item() == pytest.approx(np.mean([row.loss.item() for row in rows]), rel=1e-5)


def test_regression_answers_are_in_the_users_unit(bert):
    task = Task(name="t", problem="regression", question="?", range=(100, 200))
    model = build(bert, tasks=[task.to_dict()]).eval()
    nn.init.zeros_(model.heads["head_t"][-1].weight)
    nn.init.constant_(model.heads["head_t"][-1].bias, 3**0.5 / 2)
    with torch.no_grad():
        output = model(**batch(), labels=torch.full((4,), 175.0))
    assert model.answers(output.logits, "t").tolist() == pytest.approx([175] * 4)
    assert output.loss.item() == pytest.approx(0, abs=1e-9)


def test_answers_know_the_priors_of_their_task_only(bert):
    model = build(bert)
    logits = torch.zeros(1, 5)
    even = model.answers(logits, "sst")
    model.config.priors = {"sst": [0.1, 0.2, 0.3, 0.25, 0.15]}
    torch.testing.assert_close(model.answers(logits, "sst"), torch.tensor([[0.1, 0.2, 0.3, 0.25, 0.15]]))
    assert even.tolist()[0] == pytest.approx([0.2] * 5)
    assert model.answers(torch.zeros(1, 1), "quora").item() == 0.5


def test_only_task_need_not_be_named(bert):
    assert build(bert, tasks=[SST.to_dict()])(**batch()).logits.shape == (4, 5)


def test_unnamed_task_among_several_is_an_error_that_lists_them(bert):
    with pytest.raises(ValueError, match="one of sst, sts, quora"):
        build(bert)(**batch())


def test_unknown_task_is_an_error_that_lists_the_known(bert):
    model = build(bert)
    with pytest.raises(KeyError, match="no task 'stt'; it has: sst, sts, quora"):
        model(**batch(), task="stt")
    with pytest.raises(KeyError, match="no task 'stt'"):
        model.answers(torch.zeros(1, 1), "stt")


@pytest.mark.parametrize("name", ["forward", "train", "a-b_c", "keys"])
def test_any_task_name_makes_a_head(bert, name):
    task = Task(name=name, problem="binary", question="?")
    assert build(bert, tasks=[task.to_dict()])(**batch(), task=name).logits.shape == (4, 1)


def test_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="'encoder': model_type 'brt' is not one"):
        QABertModel(QABertConfig(encoder={"model_type": "brt"}, tasks=TASKS))


# --- heads ------------------------------------------------------------------------------------------------------------


def test_head_is_blocks_of_four_layers_and_a_projection():
    head = Head(8, 5, blocks=4, width=6, dropout=0.2)
    assert [type(layer) for layer in head] == [nn.Linear, nn.LayerNorm, nn.Dropout, nn.ReLU] * 4 + [nn.Linear]
    linears = [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)]
    assert linears == [(8, 6), (6, 6), (6, 6), (6, 6), (6, 5)]
    assert {layer.p for layer in head if isinstance(layer, nn.Dropout)} == {0.2}


def test_head_without_blocks_is_a_projection():
    assert [type(layer) for layer in Head(8, 5, blocks=0, width=6, dropout=0.1)] == [nn.Linear]


def test_config_shapes_the_heads(bert):
    model = build(bert, head_blocks=2, head_width=24, head_dropout=0.3, input_format="separate")
    head = model.heads["head_quora"]
    assert (len(head), head[0].in_features, head[0].out_features, head[2].p) == (9, 32, 24, 0.3)
    assert model.heads["head_sst"][0].in_features == 16


def test_head_is_as_wide_as_the_encoder_unless_told(bert):
    assert build(bert).heads["head_sts"][0].out_features == bert.hidden_size


def test_default_heads_are_the_papers(bert):
    head = build(bert).heads["head_sst"]
    assert len(head) == 4 * 4 + 1
    assert head[2].p == 0.1


# --- saving and loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("input_format", ["qa", "separate"])
def test_saved_model_comes_back_as_it_was(encoder, input_format, tmp_path):
    model = build(encoder, input_format=input_format, max_length=77, head_blocks=2).eval()
    model.save_pretrained(tmp_path)
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    again.eval()
    assert type(again) is QABertModel
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    weights = again.state_dict()
    assert weights.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weights[name], weight), name
    for key in ("tasks", "input_format", "max_length", "head_blocks"):
        assert getattr(again.config, key) == getattr(model.config, key)
    with torch.no_grad():
        for task in OUTPUTS:
            given = inputs(task, input_format)
            torch.testing.assert_close(again(**given).logits, model(**given).logits)


def test_tasks_of_a_checkpoint_are_tasks(bert, tmp_path):
    build(bert).save_pretrained(tmp_path)
    for declared, task in zip(AutoConfig.from_pretrained(tmp_path).tasks, PAPER_TASKS.values(), strict=True):
        assert Task.from_dict(declared).to_dict() == task.to_dict()


def test_importing_the_package_is_enough_for_auto_model(bert, tmp_path):
    build(bert).save_pretrained(tmp_path)
    code = "import sys, qabert.modeling\nfrom transformers import AutoModel\n"
    code += "print(type(AutoModel.from_pretrained(sys.argv[1])).__name__)"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert result.stdout.strip() == "QABertModel", result.stderr


def test_no_pooler_that_would_stay_untrained(encoder):
    assert not [name for name, _ in build(encoder).named_parameters() if "pooler" in name]


def test_from_encoder_copies_the_weights(encoder, tmp_path):
    torch.manual_seed(3)
    pretrained = AutoModel.from_config(encoder)
    pretrained.save_pretrained(tmp_path)
    model = QABertModel.from_encoder(str(tmp_path), tasks=TASKS)
    weights = pretrained.state_dict()
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert {name for name in weights if "pooler" not in name} == set(model.encoder.state_dict())


def test_from_encoder_heads_depend_on_the_seed_alone(encoder_path):
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(QABertModel.from_encoder(encoder_path, tasks=TASKS).heads["head_sst"][0].weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_from_encoder_keeps_this_machines_folder_out_of_the_checkpoint(encoder_path, tmp_path):
    model = QABertModel.from_encoder(encoder_path, tasks=TASKS, input_format="joint")
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert "_name_or_path" not in text and encoder_path not in text
    assert json.loads(text)["input_format"] == "joint"


def test_from_encoder_loads_half_precision_as_single(bert, tmp_path):
    AutoModel.from_config(bert).to(torch.bfloat16).save_pretrained(tmp_path)
    model = QABertModel.from_encoder(str(tmp_path), tasks=TASKS)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_dropout_reaches_the_encoder(encoder, tmp_path):
    AutoModel.from_config(encoder).save_pretrained(tmp_path)
    model = QABertModel.from_encoder(str(tmp_path), dropout=0.37, tasks=TASKS)
    found = {part.p for part in model.encoder.modules() if isinstance(part, nn.Dropout)}
    assert found == {0.37}
    assert {part.p for part in model.heads.modules() if isinstance(part, nn.Dropout)} == {0.1}
    model.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved")
    assert {part.p for part in again.encoder.modules() if isinstance(part, nn.Dropout)} == {0.37}


def test_no_dropout_given_keeps_the_encoders_own(encoder_path):
    model = QABertModel.from_encoder(encoder_path, tasks=TASKS)
    assert {part.p for part in model.encoder.modules() if isinstance(part, nn.Dropout)} == {0.1}


def test_set_dropout_leaves_classifiers_and_other_numbers_alone(make_config):
    config = make_config("modernbert")
    before = config.to_dict()
    set_dropout(config, 0.25)
    changed = {key for key, value in config.to_dict().items() if before.get(key) != value}
    assert changed == {"attention_dropout", "embedding_dropout", "mlp_dropout"}


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", OUTPUTS)
def test_one_step_reaches_the_encoder_and_the_tasks_head_only(encoder, task):
    model = build(encoder).train()
    model(**inputs(task), labels=LABELS[task]).loss.backward()
    for name, weight in model.named_parameters():
        if name.startswith(("encoder.", f"heads.head_{task}.")):
            assert weight.grad is not None and torch.isfinite(weight.grad).all(), name
        else:
            assert weight.grad is None, name


def test_training_lowers_the_loss(bert):
    model = build(bert).eval()  # no dropout: the loss is then a function of the weights
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    losses = []
    for _ in range(60):
        loss = model(**inputs("sst"), labels=LABELS["sst"]).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_frozen_encoder_stays_and_the_head_learns(encoder):
    model = build(encoder, freeze_encoder=True).train()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    for _ in range(3):
        model(**inputs("sst"), labels=LABELS["sst"]).loss.backward()
        optimizer.step()
    for name, weight in model.named_parameters():
        if name.startswith("encoder."):
            assert weight.grad is None and torch.equal(weight, before[name]), name
        elif name.startswith("heads.head_sst."):
            assert not torch.equal(weight, before[name]), name


def test_frozen_encoder_computes_without_dropout_while_the_head_has_it(bert):
    model = build(bert, freeze_encoder=True).train()
    assert model.training and model.heads.training and not model.encoder.training
    first, second = (model(**inputs("sst")) for _ in range(2))
    assert torch.equal(first.embedding, second.embedding)
    assert not torch.equal(first.logits, second.logits)


def test_encoder_that_learns_has_dropout_in_training(bert):
    model = build(bert).train()
    first, second = (model(**inputs("sst")).embedding for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    first, second = (model(**inputs("sst")).embedding for _ in range(2))
    assert torch.equal(first, second)


def test_frozen_model_is_frozen_when_loaded(bert, tmp_path):
    build(bert, freeze_encoder=True).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path).train()
    assert not any(weight.requires_grad for weight in model.encoder.parameters())
    assert all(weight.requires_grad for weight in model.heads.parameters())


@pytest.mark.parametrize("task", OUTPUTS)
def test_bf16_autocast_leaves_head_and_loss_in_single(encoder, task):
    model = build(encoder).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs(task), labels=LABELS[task])
    assert output.logits.dtype == output.loss.dtype == torch.float32
    output.loss.backward()
    assert torch.isfinite(output.loss)
    grads = [weight.grad for weight in model.encoder.parameters()]
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert any(grad.abs().sum() > 0 for grad in grads)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_activation_checkpointing_gives_the_same_gradients(bert):
    grads = []
    for checkpointing in (False, True):
        model = build(bert)
        set_dropout(model.encoder.config, 0.0)
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        assert model.is_gradient_checkpointing == checkpointing
        model.train()
        model(**inputs("quora"), labels=LABELS["quora"]).loss.backward()
        grads.append([weight.grad for weight in model.encoder.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_embeddings_can_be_resized(bert):
    model = build(bert)
    model.resize_token_embeddings(810)
    assert model.get_input_embeddings().num_embeddings == model.encoder.get_input_embeddings().num_embeddings == 810


def test_segments_follow_format_and_task(bert):
    pairs = {name: QABertConfig(input_format=name).segments(QUORA.to_dict()) for name in ("separate", "joint", "qa")}
    assert pairs == {"separate": 2, "joint": 1, "qa": 1}
    assert QABertConfig(input_format="separate").segments(SST.to_dict()) == 1
    assert QABertConfig(input_format="separate").segments(STS.to_dict()) == 2
