"""The mean of several models: every weight, and only of models that mean the same."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from qabert.cli import main
from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.tasks import SST, STS


@pytest.fixture(scope="module")
def models(save_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    names = []
    for number in range(3):
        names.append(save_checkpoint(folder / str(number), both_orders=True, priors={"sst": [0.1, 0.2, 0.3, 0.2, 0.2]}))
        predictor = Predictor.from_pretrained(names[-1], "cpu")
        torch.manual_seed(number)
        with torch.no_grad():
            for weights in predictor.model.parameters():
                weights.add_(torch.randn_like(weights) * 0.1)
        predictor.model.save_pretrained(names[-1])
    return names


def test_every_weight_is_the_mean(models, tmp_path, capsys):
    main(["average", str(tmp_path / "out"), *models])
    assert "the mean of 3 models" in capsys.readouterr().out
    parts = [load_file(f"{name}/model.safetensors") for name in models]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert set(found) == set(parts[0])
    for name, value in found.items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in parts]).mean(0), atol=1e-6, rtol=1e-6)
        assert not torch.equal(value, parts[0][name]) or value.numel() == 0 or value.std() == 0
    predictor = Predictor.from_pretrained(str(tmp_path / "out"), "cpu")
    assert predictor.model.config.both_orders and predictor.model.config.priors
    assert list(predictor.predict("sst", [("ab cd", None)]))


def test_models_that_differ_in_more_than_weights(models, save_checkpoint, make_config, tmp_path):
    from qabert.averaging import average

    others = {
        "tasks": save_checkpoint(tmp_path / "tasks", tasks=[SST, STS], both_orders=True),
        "input_format": save_checkpoint(tmp_path / "format", input_format="joint", both_orders=True),
        "head_blocks": save_checkpoint(tmp_path / "blocks", head_blocks=2, both_orders=True),
    }
    for key, other in others.items():
        with pytest.raises(InputError, match=f"can't be averaged: their '{key}' differs"):
            average([models[0], other], tmp_path / "out")
    with pytest.raises(InputError, match="at least two"):
        average(models[:1], tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="holds files already"):
        average(models, tmp_path / "full")
    assert not (tmp_path / "out").exists()
