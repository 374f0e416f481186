"""The Trainer's overrides: each holds a trap of the library that a plain Trainer falls into."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from sklearn.metrics import accuracy_score
from torch.nn import functional as F
from transformers import EarlyStoppingCallback, TrainerCallback

from qabert.data.collator import DataCollator
from qabert.data.sampling import TaskBatchSampler
from qabert.errors import InputError
from qabert.tasks import PAPER_TASKS
from qabert.training import trainer as trainer_module
from qabert.training.arguments import RunArguments
from qabert.training.step_trainer import check_world


def training_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


# Plain SGD without clipping: Adam and clipping would hide a loss of the wrong scale.
SGD = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, "weight_decay": 0.0}


@pytest.fixture
def trained(make_trainer):
    def train(**keys):
        trainer = make_trainer(trainer=SGD | keys, folder=f"out{keys}")
        trainer.train()
        return trainer

    return train


def test_a_steps_loss_and_gradient_do_not_depend_on_how_it_is_cut(trained):
    whole = trained(per_device_train_batch_size=8)
    sizes = [len(batch) for batch in whole.sampler]
    assert len(set(sizes)) > 1, "steps of uneven size belong to this test"
    for size, pieces in ((4, 2), (2, 4)):
        cut = trained(per_device_train_batch_size=size, gradient_accumulation_steps=pieces)
        assert len(training_logs(cut)) == len(training_logs(whole)) == len(sizes)
        for a, b in zip(training_logs(whole), training_logs(cut), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        for name, value in weights(whole).items():
            assert torch.allclose(value, weights(cut)[name], atol=1e-5), name


def test_the_logged_loss_is_the_mean_over_the_steps_rows(make_trainer):
    trainer = make_trainer(trainer=SGD | {"learning_rate": 1e-12, "gradient_accumulation_steps": 2})
    first, second = next(zip(*[iter(trainer.get_train_dataloader())] * 2, strict=False))
    assert len(first["labels"]) != len(second["labels"]) or len(first["labels"]) > 1
    with torch.no_grad():
        parts = [(trainer.model.eval()(**batch).loss.item(), len(batch["labels"])) for batch in (first, second)]
    trainer.train()
    expected = sum(loss * rows for loss, rows in parts) / sum(rows for _, rows in parts)
    assert training_logs(trainer)[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_every_parameter_moves(make_trainer):
    trainer = make_trainer(trainer={"learning_rate": 1e-2})
    before = weights(trainer)
    trainer.train()
    still = [name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])]
    assert still == []


@pytest.mark.parametrize("rate", [None, 1e-2])
def test_a_frozen_encoder_does_not_move_and_the_heads_do(make_trainer, rate):
    trainer = make_trainer(trainer={"learning_rate": 1e-2}, model={"freeze_encoder": True}, head_learning_rate=rate)
    before = weights(trainer)
    trainer.train()
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("encoder."), name


def test_the_heads_have_groups_with_their_own_learning_rate(make_trainer):
    trainer = make_trainer(trainer={"learning_rate": 1e-4}, head_learning_rate=1e-3)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        own = [names[id(parameter)] for parameter in group["params"]]
        seen += own
        assert {name.startswith("heads.") for name in own} == {group["lr"] == 1e-3}
        assert group["lr"] in (1e-3, 1e-4)
        assert all(name.endswith("weight") for name in own) or group["weight_decay"] == 0.0
    assert sorted(seen) == sorted(names.values())
    assert {group["weight_decay"] for group in optimizer.param_groups if group["lr"] == 1e-3} == {0.0, 0.01}
    assert trainer.create_optimizer() is optimizer  # made once, split once
    assert len(make_trainer().create_optimizer().param_groups) == 2  # without the key, the Trainer's own


def test_losses_by_task_are_logged_and_add_up_to_the_loss(make_trainer):
    counts = dict.fromkeys(PAPER_TASKS, 48)
    steps = 18
    trainer = make_trainer(trainer={"logging_steps": steps}, examples_per_epoch=counts)
    trainer.train()
    (log,) = training_logs(trainer)
    assert trainer.state.global_step == steps
    assert log["loss"] == pytest.approx(np.mean([log[f"{name}/loss"] for name in PAPER_TASKS]), abs=1e-5)

    every = make_trainer(folder="every", examples_per_epoch=counts)
    every.train()
    for entry in training_logs(every):
        (key,) = [key for key in entry if key.endswith("/loss")]  # a step holds one task, nothing is left from others
        assert entry[key] == pytest.approx(entry["loss"], abs=1e-6)


class Counter(TrainerCallback):
    def __init__(self):
        self.evaluations, self.logs = [], []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.evaluations.append(metrics)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def test_evaluation_is_one_log_and_one_event_with_one_score(make_trainer, capsys):
    counter = Counter()
    trainer = make_trainer(callbacks=[counter])
    capsys.readouterr()
    metrics = trainer.evaluate()
    assert len(counter.evaluations) == len(counter.logs) == 1
    assert counter.evaluations[0] == metrics
    assert len([line for line in capsys.readouterr().out.splitlines() if line.strip()]) == 1
    firsts = [metrics[f"eval_{name}/{task.score}"] for name, task in PAPER_TASKS.items()]
    assert metrics["eval_score"] == pytest.approx(np.mean(firsts))
    assert metrics["eval_loss"] == pytest.approx(np.mean([metrics[f"eval_{name}/loss"] for name in PAPER_TASKS]))


def by_hand(trainer, features, name):
    """Logits and losses of rows in their order, each computed alone."""
    model, collator = trainer.model.eval(), DataCollator(trainer.processing_class)
    rows = [collator([row]) for row in features]
    assert {row["task"] for row in rows} == {name}
    with torch.no_grad():
        outputs = [model(**row) for row in rows]
    return torch.cat([output.logits for output in outputs]), np.array([output.loss.item() for output in outputs])


def test_metrics_equal_those_computed_row_by_row_in_the_datasets_order(make_trainer, course_features):
    trainer = make_trainer(model={"head_blocks": 0})
    trainer.evaluate()
    with torch.no_grad():  # spread the answers, so that a wrong order is seen
        for name, logits in trainer.logits.items():
            last = trainer.model.heads[f"head_{name}"][-1]
            last.bias.sub_(torch.tensor(logits.mean(0))).div_(float(logits.std(0).mean()))
            last.weight.div_(float(logits.std(0).mean()))
    metrics = trainer.evaluate()
    for name in PAPER_TASKS:
        dev = course_features[name]["dev"]
        assert sorted(dev["length"], reverse=True) != list(dev["length"]), "the order by length has to be another one"
        logits, losses = by_hand(trainer, dev, name)
        assert np.allclose(trainer.logits[name], logits.numpy(), atol=1e-3)
        assert metrics[f"eval_{name}/loss"] == pytest.approx(losses.mean(), rel=1e-3)
        labels = np.array(dev["labels"])
        if name == "sst":
            assert metrics["eval_sst/accuracy"] == accuracy_score(labels, logits.argmax(-1))
            expected = F.cross_entropy(logits, torch.tensor(labels)).item()
            assert metrics["eval_sst/loss"] == pytest.approx(expected, rel=1e-3)
        if name == "quora":
            assert metrics["eval_quora/accuracy"] == accuracy_score(labels, (logits[:, 0] > 0).long())
        if name == "sts":
            values = trainer.answers("sts")
            bound = 3**0.5
            unit = ((logits[:, 0].numpy() + bound) / (2 * bound) * 5).clip(0, 5)
            assert np.allclose(values, unit, atol=3e-3)
            assert values.min() >= 0 and values.max() <= 5 and values.std() > 0
            assert metrics["eval_sts/pearson"] == pytest.approx(stats.pearsonr(unit, labels).statistic, abs=1e-3)
            assert metrics["eval_sts/spearman"] == pytest.approx(stats.spearmanr(unit, labels).statistic, abs=1e-2)


@pytest.mark.parametrize("size", [3, 7, 64])
def test_the_evaluations_batch_size_changes_nothing(make_trainer, size):
    a, b = make_trainer().evaluate(), make_trainer(trainer={"per_device_eval_batch_size": size}).evaluate()
    for key in a:
        if "/" in key or key in ("eval_loss", "eval_score"):
            assert a[key] == pytest.approx(b[key], rel=1e-5), key


def test_other_rows_can_be_evaluated_under_another_prefix(make_trainer, course_features):
    trainer = make_trainer()
    rows = course_features["sst"]["dev"].select(range(3, 8))
    metrics = trainer.evaluate({"sst": rows}, metric_key_prefix="final")
    assert set(metrics) >= {"final_sst/accuracy", "final_sst/loss", "final_loss", "final_score"}
    assert len(trainer.logits["sst"]) == 5
    with pytest.raises(ValueError, match="dictionary"):
        trainer.evaluate(rows)


def scripted(monkeypatch, scores):
    """`eval_score` as written, evaluation by evaluation."""
    left = iter(scores)
    monkeypatch.setattr(trainer_module, "multitask_score", lambda firsts: next(left))


EPOCHS = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "learning_rate": 1e-3}


def test_the_best_model_by_eval_score_is_loaded_at_the_end(make_trainer, monkeypatch):
    scripted(monkeypatch, [0.1, 0.9, 0.3])
    trainer = make_trainer(trainer=EPOCHS | {"num_train_epochs": 3})
    trainer.train()
    assert trainer.state.best_metric == 0.9
    assert trainer.state.best_global_step * 3 == trainer.state.global_step * 2
    best = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in weights(trainer).items())
    last = load_file(f"{trainer.args.output_dir}/checkpoint-{trainer.state.global_step}/model.safetensors")
    assert not all(torch.equal(value, last[name]) for name, value in weights(trainer).items())


def test_early_stopping_stops(make_trainer, monkeypatch, caplog):
    scripted(monkeypatch, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    trainer = make_trainer(trainer=EPOCHS | {"num_train_epochs": 6}, callbacks=[EarlyStoppingCallback(2)])
    trainer.train()
    assert trainer.state.epoch == 3
    assert "early stopping required" not in caplog.text  # the plain Trainer warns once per dataset that isn't scored


def test_throughput_counts_the_rows_that_were_drawn(make_trainer):
    trainer = make_trainer(trainer={"num_train_epochs": 2}, examples_per_epoch={"quora": 200, "sst": 8})
    assert trainer.num_examples(trainer.get_train_dataloader()) == 8 + 51 + 200
    metrics = trainer.train().metrics
    assert metrics["train_samples_per_second"] * metrics["train_runtime"] == pytest.approx(2 * (8 + 51 + 200), rel=0.01)
    dev = trainer.get_eval_dataloader(trainer.eval_dataset["sst"])
    assert trainer.num_examples(dev) == 20


def test_a_dataset_that_no_task_declares(make_trainer, course_features):
    with pytest.raises(KeyError, match=r"'sstt'.*sst, sts, quora"):
        make_trainer(train_dataset={"sstt": course_features["sst"]["train"]})
    with pytest.raises(KeyError, match="'other'"):
        make_trainer(eval_dataset={"other": course_features["sst"]["dev"]})


def test_every_batch_has_its_task_and_labels_of_their_own_type(make_trainer):
    trainer = make_trainer()
    seen = {}
    for batch in trainer.get_train_dataloader():
        seen[batch["task"]] = batch["labels"].dtype
    assert seen == {"sst": torch.int64, "sts": torch.float32, "quora": torch.int64}
    for name, features in trainer.eval_dataset.items():
        assert {batch["task"] for batch in trainer.get_eval_dataloader(features)} == {name}


def test_every_epoch_is_told_to_the_sampler(make_trainer, monkeypatch):
    epochs, batches = [], []
    draw = TaskBatchSampler.__iter__

    def spy(self):
        epochs.append(self.epoch)
        batches.append(list(draw(self)))
        return iter(batches[-1])

    monkeypatch.setattr(TaskBatchSampler, "__iter__", spy)
    make_trainer(trainer={"num_train_epochs": 3}).train()
    assert epochs == [0, 1, 2]
    assert batches[0] != batches[1] != batches[2] != batches[0]


def test_activation_checkpointing_does_not_flip_what_ddp_looks_for():
    for trainer in ({}, {"gradient_checkpointing": True}):
        args = RunArguments(trainer=trainer).training_arguments()
        assert args.ddp_find_unused_parameters is True and args.remove_unused_columns is False


def test_several_gpus_are_not_fed_by_data_parallel(make_trainer, monkeypatch):
    build = RunArguments.training_arguments

    def two(self):
        args = build(self)
        args._n_gpu = 2
        return args

    monkeypatch.setattr(RunArguments, "training_arguments", two)
    trainer = make_trainer()
    assert trainer.args.n_gpu == 1
    assert trainer.args.train_batch_size == 8


@pytest.mark.parametrize("launched", ["2", "8"])
def test_a_launcher_with_more_processes_than_the_trainer_sees(make_trainer, monkeypatch, launched):
    args = RunArguments(trainer={"use_cpu": True}).training_arguments()
    assert args.world_size == 1
    check_world(args)
    monkeypatch.setenv("WORLD_SIZE", launched)
    with pytest.raises(InputError, match=f"started {launched} processes but the Trainer sees 1.*--ddp_backend gloo"):
        check_world(args)


def test_no_rows_to_train_on(make_trainer):
    with pytest.raises(ValueError, match="no train_dataset"):
        make_trainer(train_dataset=None).get_train_dataloader()


PINNED = [1.6, 0.6776, 1.227, 1.62, 0.7121, 0.686, 1.627, 0.7225]


def test_a_short_loss_curve_is_what_it_was(make_trainer):
    """Notices a silent change of the order of rows, the loss, the initialisation or the optimizer."""
    trainer = make_trainer(trainer={"learning_rate": 1e-3, "max_steps": 8})
    trainer.train()
    curve = [round(entry["loss"], 4) for entry in training_logs(trainer)]
    assert curve == pytest.approx(PINNED, abs=1e-3)


def test_an_evaluation_leaves_nothing_behind(make_trainer):
    trainer = make_trainer()
    trainer.evaluate()
    kept = len(trainer.accelerator._dataloaders)
    loaders = []
    get = trainer.get_eval_dataloader

    def remembered(features):
        loader = get(features)
        loaders.append(weakref.ref(loader))
        return loader

    trainer.get_eval_dataloader = remembered
    trainer.evaluate()
    gc.collect()
    assert len(loaders) == 3
    assert sum(loader() is not None for loader in loaders) <= 1  # callbacks see the last one
    assert len(trainer.accelerator._dataloaders) == kept
