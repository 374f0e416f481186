"""What is computed faster is what would be computed: the last layer, attention, dropout."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch.nn import functional as F
from transformers import AutoModel
from transformers.models.bert.modeling_bert import eager_attention_forward

from qabert.modeling import QABertConfig, QABertModel, modeling_qabert
from qabert.modeling.attention import ATTENTION, attention_forward
from qabert.modeling.dropout import Dropout, dropout, use_fast_dropout
from qabert.modeling.first_token import LAYERS, first_token_only, is_known
from qabert.modeling.modeling_qabert import sentence_embeddings, speed_up

KINDS = ["bert", "mpnet", "roberta", "xlm-roberta", "camembert", "electra"]


def build(kind, attention="eager", p=0.0, **extra):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    more = {"electra": {"embedding_size": 16}, "modernbert": ends}.get(kind, {})
    config = transformers.AutoConfig.for_model(
        kind, **sizes, **more, **extra, vocab_size=800, max_position_embeddings=130
    )
    modeling_qabert.set_dropout(config, p)
    torch.manual_seed(0)
    encoder = AutoModel.from_config(config, attn_implementation=attention)
    for name, weight in encoder.named_parameters():  # large enough for states that differ from token to token
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3 if "embed" not in name else 1.0)
    return encoder.train()


def batch(rows=5, length=11):
    torch.manual_seed(1)
    ids = torch.randint(5, 800, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    mask[2, 9:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def gradients(encoder):
    return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("kind", "attention"),
    # transformers has one attention for MPNet
    [(kind, name) for kind in KINDS for name in ("eager", "sdpa", ATTENTION) if kind != "mpnet" or name == "eager"],
)
@pytest.mark.parametrize("padded", [True, False])
def test_the_first_token_alone_is_the_first_token_of_all(kind, attention, padded):
    encoder = build(kind, attention)
    assert is_known(encoder)
    inputs = batch()
    if not padded:
        inputs["attention_mask"][:] = 1
    full = encoder(**inputs).last_hidden_state
    assert full.shape == (5, 11, 16)
    weight = torch.randn(5, 16)
    (full[:, 0] * weight).sum().backward()
    expected = gradients(encoder)
    encoder.zero_grad()
    with first_token_only(encoder):
        first = encoder(**inputs).last_hidden_state
    assert first.shape == (5, 1, 16)
    torch.testing.assert_close(first[:, 0], full[:, 0], rtol=1e-5, atol=1e-6)
    (first[:, 0] * weight).sum().backward()
    found = gradients(encoder)
    # The last layer's own weights are used in full: DDP waits for none of them.
    assert set(found) == {name for name, value in expected.items()}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert encoder(**inputs).last_hidden_state.shape == (5, 11, 16)  # outside, it is the encoder it was


def test_every_layer_class_is_tested():
    names = {type(build(kind).encoder.layer[-1]).__name__ for kind in KINDS}
    assert names == set(LAYERS)


def test_encoders_that_are_not_known_are_computed_in_full():
    encoder = build("modernbert")
    assert not is_known(encoder)
    with first_token_only(encoder):
        assert encoder(**batch()).last_hidden_state.shape == (5, 11, 16)
    assert not is_known(build("bert", is_decoder=True))


def test_activation_checkpointing_computes_in_full():
    """It computes a layer again in the backward pass, when nobody says any more that one token is enough."""
    encoder = build("bert")
    inputs = batch()
    expected = encoder(**inputs).last_hidden_state[:, 0]
    expected.sum().backward()
    wanted = gradients(encoder)
    encoder.zero_grad()
    encoder.gradient_checkpointing_enable({"use_reentrant": False})
    found = sentence_embeddings(encoder, inputs, "first")
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    for name, value in wanted.items():
        torch.testing.assert_close(gradients(encoder)[name], value, msg=name)


def test_mean_pooling_reads_every_token():
    encoder = build("bert")
    inputs = batch()
    states = encoder(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    expected = (states * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(sentence_embeddings(encoder, inputs, "mean"), expected)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_the_model_answers_and_learns_as_with_the_encoder_in_full(kind, monkeypatch):
    task = {"name": "a", "problem": "binary", "labels": ["no", "yes"], "range": None, "question": "q"}
    torch.manual_seed(0)
    config = QABertConfig(encoder=build(kind).config.to_dict(), tasks=[task], input_format="qa", head_blocks=1)
    model = QABertModel(config).eval()
    inputs = batch() | {"task": "a", "labels": torch.tensor([0, 1, 1, 0, 1])}
    fast = model(**inputs)
    fast.loss.backward()
    found = gradients(model)
    model.zero_grad()

    def whole(encoder, inputs, pooling):
        return encoder(**inputs).last_hidden_state[:, 0]

    monkeypatch.setattr(modeling_qabert, "sentence_embeddings", whole)
    full = model(**inputs)
    full.loss.backward()
    torch.testing.assert_close(fast.logits, full.logits)
    for name, value in gradients(model).items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def states(queries, keys, requires_grad=True):
    torch.manual_seed(3)
    shapes = [(2, 4, queries, 8), (2, 4, keys, 8), (2, 4, keys, 8)]
    return [torch.randn(shape, requires_grad=requires_grad) for shape in shapes]


@pytest.mark.parametrize("queries", [1, 7])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_attention_is_that_of_transformers(queries, masked, requires_grad):
    module = torch.nn.Module()
    module.is_causal = False
    mask = torch.zeros(2, 1, queries, 7)
    mask[1, :, :, 4:] = torch.finfo(torch.float32).min
    given = states(queries, 7, requires_grad)
    found, _ = attention_forward(module, *given, mask if masked else None, dropout=0.0, scaling=0.3)
    expected, _ = eager_attention_forward(module, *given, mask if masked else None, dropout=0.0, scaling=0.3)
    torch.testing.assert_close(found, expected)
    if requires_grad:
        weight = torch.randn_like(found)
        for first, second in zip(
            torch.autograd.grad((found * weight).sum(), given),
            torch.autograd.grad((expected * weight).sum(), given),
            strict=True,
        ):
            torch.testing.assert_close(first, second)


def test_an_encoder_gets_it_unless_another_was_chosen(encoder_path):
    task = {"name": "a", "problem": "binary", "labels": ["no", "yes"], "range": None, "question": "q"}

    def attention(**chosen):
        model = QABertModel.from_encoder(encoder_path, tasks=[task], input_format="qa", **chosen)
        return model.encoder.config._attn_implementation

    assert attention() == ATTENTION
    assert attention(attn_implementation="sdpa") == "sdpa"
    assert attention(attn_implementation="eager") == "eager"


def test_a_saved_model_names_no_attention_of_ours(encoder_path, tmp_path):
    """Its encoder must load where this package is not."""
    task = {"name": "a", "problem": "binary", "labels": ["no", "yes"], "range": None, "question": "q"}
    QABertModel.from_encoder(encoder_path, tasks=[task], input_format="qa").save_pretrained(tmp_path)
    assert '"qabert"' not in (tmp_path / "config.json").read_text().replace('"model_type": "qabert"', "")
    assert QABertModel.from_pretrained(tmp_path).encoder.config._attn_implementation == ATTENTION


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_share_and_the_mean(p, dtype):
    torch.manual_seed(0)
    values = torch.ones(1000, 1003, dtype=dtype, requires_grad=True)  # no multiple of four
    dropped = dropout(values, p, training=True)
    zero = dropped == 0
    assert abs(zero.float().mean().item() - p) < 4 * (p * (1 - p) / values.numel()) ** 0.5 + 1 / 2**16
    kept = dropped[~zero].detach().float()
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-4 if dtype == torch.float32 else 1e-2)
    # No row and no column is favoured, and neighbours, whose bits come from one draw, don't depend on each other.
    for axis in (0, 1):
        assert (zero.float().mean(axis) - p).abs().max() < 6 * (p * (1 - p) / 1000) ** 0.5
    flat = zero.flatten().float() - p
    for step in (1, 2, 3, 4):
        assert abs((flat[:-step] * flat[step:]).mean().item()) < 5 * p * (1 - p) / values.numel() ** 0.5
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, torch.where(zero, 0, 1 / (1 - p)).to(dtype), rtol=1e-2, atol=1e-4)


def test_dropout_draws_anew_and_follows_the_seed():
    values = torch.ones(50, 50)
    torch.manual_seed(5)
    first, second = dropout(values, 0.5, True), dropout(values, 0.5, True)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(dropout(values, 0.5, True), first)


def test_dropout_at_its_ends():
    values = torch.randn(9, 9)
    assert torch.equal(dropout(values, 0.5, training=False), values)
    assert torch.equal(dropout(values, 0.0, True), values)
    assert torch.equal(dropout(values, 1.0, True), torch.zeros(9, 9))
    assert dropout(torch.empty(0, 3), 0.5, True).shape == (0, 3)
    spread = values.t()  # not contiguous
    found = dropout(spread, 0.5, True)
    assert torch.equal(torch.where(found == 0, 0, spread * 2), found)
    with pytest.raises(ValueError, match="between 0 and 1"):
        dropout(values, 1.5, True)


def test_every_plain_dropout_of_an_encoder_is_replaced_and_no_weight_renamed():
    encoder = build("bert", p=0.1)
    names = list(encoder.state_dict())
    before = sum(type(part) is torch.nn.Dropout for part in encoder.modules())
    special = torch.nn.Sequential(torch.nn.AlphaDropout(0.1))
    use_fast_dropout(encoder)
    use_fast_dropout(special)
    assert before > 0
    assert sum(type(part) is Dropout for part in encoder.modules()) == before
    assert not any(type(part) is torch.nn.Dropout for part in encoder.modules())
    assert type(special[0]) is torch.nn.AlphaDropout
    assert list(encoder.state_dict()) == names
    assert all(part.p == 0.1 for part in encoder.modules() if isinstance(part, Dropout))
    copied = copy.deepcopy(encoder).eval()
    assert torch.equal(copied(**batch()).last_hidden_state, copied(**batch()).last_hidden_state)


def test_a_sped_up_encoder_differs_by_dropouts_draws_only():
    """Over many draws the mean of the states is that of the encoder as it was."""
    plain, fast = build("bert", "sdpa", p=0.3), build("bert", "sdpa", p=0.3)
    speed_up(fast)
    assert fast.config._attn_implementation == ATTENTION
    inputs = {key: value[:2] for key, value in batch().items()}
    torch.manual_seed(0)
    means, spreads = [], []
    for encoder in (plain, fast):
        draws = torch.stack([encoder(**inputs).last_hidden_state.detach()[:, 0] for _ in range(600)])
        means.append(draws.mean(0))
        spreads.append(draws.std(0))
    assert (means[0] - means[1]).abs().max() < 5 * spreads[0].max() / 600**0.5 * 2**0.5
    assert (spreads[0] / spreads[1] - 1).abs().max() < 0.25
    assert torch.allclose(F.dropout(means[0], 0.0), means[0])
