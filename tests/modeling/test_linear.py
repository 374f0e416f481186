"""oneDNN's products are torch's own, and laid out weights are never stale."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qabert.inference import Predictor
from qabert.modeling.linear import FastLinear, _has_products, use_fast_linear


def packed_layer(dtype=torch.float32, bias=True) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40, bias=bias), nn.ReLU()).to(dtype)
    use_fast_linear(model)
    assert type(model[0]) is FastLinear
    return model[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 7, 24), (5000, 24), (0, 24)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_packed_weights_answer_the_same(dtype, near, shape, bias):
    layer, values = packed_layer(dtype, bias), torch.randn(shape, dtype=dtype)
    wanted = nn.functional.linear(values, layer.weight, layer.bias)
    with torch.inference_mode():
        found = layer(values)
        torch.testing.assert_close(found, wanted, atol=near, rtol=near)
        across = values.expand(2, *shape)  # not contiguous
        near = 0 if _has_products(dtype) else near  # torch's own bfloat16 sums depend on how the rows lie
        torch.testing.assert_close(layer(across)[1], layer(across.contiguous())[0], atol=near, rtol=near)


def test_weights_that_change_are_packed_anew():
    layer, values = packed_layer(), torch.randn(3, 24)

    def ask():
        with torch.inference_mode():
            return layer(values).clone()

    before = ask()
    with torch.no_grad():
        layer.weight.mul_(2)
    doubled = ask()
    layer.weight.data = layer.weight.data * 2
    assert torch.allclose(doubled - layer.bias, 2 * (before - layer.bias), atol=1e-5)
    assert torch.allclose(ask() - layer.bias, 4 * (before - layer.bias), atol=1e-5)
    assert layer.to(torch.bfloat16)(values.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 7, 24), (700, 24), (0, 24)])
@pytest.mark.parametrize("spread", [True, False])
def test_training_is_that_of_a_plain_layer(shape, bias, spread):
    layer = packed_layer(bias=bias)
    plain = nn.Linear(24, 40, bias=bias)
    plain.load_state_dict(layer.state_dict())
    assert layer.training
    given = torch.randn(*shape[:-1], 48)[..., ::2] if spread else torch.randn(shape)
    weight = torch.randn(40, *shape[:-1]).movedim(0, -1) if spread else torch.randn(*shape[:-1], 40)
    found = []
    for one in (layer, plain):
        values = given.detach().requires_grad_()
        answer = one(values)
        (answer * weight).sum().backward()
        found.append([answer, values.grad, *(parameter.grad for parameter in one.parameters())])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_frozen_weights_and_inputs_get_no_gradient():
    layer = packed_layer()
    layer.requires_grad_(False)
    values = torch.randn(3, 24, requires_grad=True)
    layer(values).sum().backward()
    torch.testing.assert_close(values.grad, layer.weight.sum(0).expand(3, -1))
    assert layer.weight.grad is None
    assert not layer(torch.randn(3, 24)).requires_grad


def test_gradients_and_copies_are_those_of_a_plain_layer():
    layer = packed_layer()
    with torch.inference_mode():
        layer(torch.zeros(1, 24))
    assert layer._packed is not None
    values = torch.randn(2, 24, requires_grad=True)
    layer(values).sum().backward()
    torch.testing.assert_close(values.grad, layer.weight.sum(0).expand(2, -1))
    assert copy.deepcopy(layer)._packed is None
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.fixture
def asked_anew():
    """What this CPU can do is asked for again, before the test and after it."""
    _has_products.cache_clear()
    yield
    _has_products.cache_clear()


def test_a_cpu_that_has_no_bfloat16_products_answers_by_torchs(monkeypatch, asked_anew):
    layer, values = packed_layer(torch.bfloat16), torch.randn(3, 24, dtype=torch.bfloat16)
    _has_products.cache_clear()
    real = torch.ops.mkldnn._reorder_linear_weight

    def without_bfloat16(weight, rows):
        if weight.dtype == torch.bfloat16:
            raise RuntimeError("mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx_ne_convert or …")
        return real(weight, rows)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", without_bfloat16)
    with torch.inference_mode():
        assert torch.equal(layer(values), nn.functional.linear(values, layer.weight, layer.bias))
        assert layer._packed is None
        layer.float()(values.float())
        assert layer._packed is not None


def test_a_torch_without_the_operators_answers_as_ever(monkeypatch, asked_anew):
    def missing(*args):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", missing)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    use_fast_linear(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear]
    with torch.inference_mode():
        assert model(torch.zeros(1, 3)).shape == (1, 2)


def test_a_predictor_on_a_cpu_uses_them(trained):
    for dtype in ("float32", "bfloat16"):
        predictor = Predictor.from_pretrained(trained, "cpu", dtype=dtype)
        next(predictor.logits("sst", [("ab", None)]))
        layers = [layer for layer in predictor.model.encoder.modules() if isinstance(layer, nn.Linear)]
        assert layers
        assert {type(layer) for layer in layers} == {FastLinear}
        used = _has_products(getattr(torch, dtype))
        assert all((layer._packed is not None) == used for layer in layers)
