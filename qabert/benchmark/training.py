"""Train on the same rows, then score the dev rows: the limit and this package.  The others are in `peers`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qabert.benchmark.meters import Meter, Stopwatch, autocast, device, synchronize
from qabert.benchmark.rows import SEED

Spec = dict[str, Any]
Pairs = dict[str, list[dict[str, Any]]]
LEARNING_RATE, WEIGHT_DECAY, CLIP = 5e-5, 0.01, 1.0


class Run:
    """What a training run measured, put together as it goes on."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.meter = Meter()
        self.watch = Stopwatch()
        self.first_step = self.steps = 0.0
        self.result: dict[str, Any] = {}

    def step_done(self, step: int) -> None:
        """After an optimizer step, counted from 1."""
        self.steps = step
        if step == 1:
            synchronize()
            self.first_step = time.time() - self.spec["started"]
        if step == self.spec["steps"]:
            used = self.watch.stop()
            rates = self.meter.rates(used["seconds"])
            self.result["train"] = {"seconds_to_first_step": self.first_step, "steps": step, **used, **rates}

    def trained(self, **losses: Any) -> None:
        """After training: check that it was what was asked, and keep its losses.

        Raises:
            RuntimeError: Another number of steps or rows.
        """
        seen = (self.steps, self.result.get("train", {}).get("rows", self.meter.rows))
        asked = (self.spec["steps"], self.spec["train_rows"])
        if seen != asked:
            raise RuntimeError(f"it made {seen[0]} steps over {seen[1]} rows; asked were {asked[0]} over {asked[1]}")
        self.result["train"] |= losses

    def evaluate(self, evaluate: Callable[[], Any]) -> Any:
        """Time an evaluation of all dev rows.

        Raises:
            RuntimeError: It saw another number of rows.
        """
        self.meter.reset()
        self.watch.start()
        scores = evaluate()
        used = self.watch.stop()
        self.result["evaluate"] = {**used, **self.meter.rates(used["seconds"])}
        if self.meter.rows != self.spec["dev_rows"]:
            raise RuntimeError(f"it scored {self.meter.rows} rows; asked were {self.spec['dev_rows']}")
        return scores

    def callback(self) -> Any:
        """The same clock as a callback of a `Trainer`."""
        from transformers import TrainerCallback

        run = self

        class Clock(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 0:
                    run.watch.start()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                run.step_done(state.global_step)

        return Clock()


def train_limit(spec: Spec, pairs: Pairs, run: Run) -> None:
    """The model's own arithmetic, and nothing else."""
    from transformers import AutoModel, AutoTokenizer

    from qabert.modeling.losses import LOSSES
    from qabert.tasks import PAPER_TASKS

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(spec["encoder"])
    encoder = AutoModel.from_pretrained(
        spec["encoder"], dtype=torch.float32, attn_implementation=spec["attn_implementation"]
    )
    encoder.pooler = None
    heads = {name: torch.nn.Linear(encoder.config.hidden_size, task.num_outputs) for name, task in PAPER_TASKS.items()}
    model = torch.nn.ModuleDict({"encoder": encoder, "heads": torch.nn.ModuleDict(heads)}).to(device())
    run.meter = Meter(encoder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    batches = {split: bucketed(pairs[split], tokenizer, spec["batch_size"]) for split in ("train", "dev")}
    order = np.random.default_rng(SEED).permutation(len(batches["train"]))

    def logits(task: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with autocast(spec["bf16"]):
            states = encoder(**inputs).last_hidden_state
        return heads[task](states[:, 0].float())

    model.train()
    losses = []
    run.watch.start()
    for step, number in enumerate(order, 1):
        task, inputs, labels = batches["train"][number]
        loss = LOSSES[PAPER_TASKS[task].problem](logits(task, inputs), labels, PAPER_TASKS[task].range)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        run.step_done(step)
    run.trained(train_loss=torch.stack(losses).mean().item())
    model.eval()
    with torch.inference_mode():
        run.evaluate(lambda: [logits(task, inputs).cpu() for task, inputs, _ in batches["dev"]])


def bucketed(
    rows: list[dict[str, Any]], tokenizer: Any, batch_size: int
) -> list[tuple[str, dict[str, torch.Tensor], torch.Tensor]]:
    """Padded batches of one task and of like length, on the device: task, inputs, labels."""
    batches = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        tokens = tokenizer([row["first"] for row in own], [row["second"] for row in own])
        order = sorted(range(len(own)), key=lambda number: len(tokens["input_ids"][number]))
        for first in range(0, len(own), batch_size):
            part = order[first : first + batch_size]
            inputs = tokenizer.pad(
                {key: [values[n] for n in part] for key, values in tokens.items()}, return_tensors="pt", verbose=False
            )
            labels = torch.tensor([own[n]["label"] for n in part], device=device())
            batches.append((task, dict(inputs.to(device())), labels))
    return batches


def train_qabert(spec: Spec, pairs: Pairs, run: Run) -> None:
    """All that scripts/train.py does, with a clock in its trainer."""
    from qabert.training import building
    from qabert.training import run as script
    from qabert.training.arguments import RunArguments

    class Timed(building.QABertTrainer):
        def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(model, *args, **kwargs)
            run.meter = Meter(model.encoder)
            self.add_callback(run.callback())

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            return run.evaluate(lambda: super(Timed, self).evaluate(*args, **kwargs))

    building.QABertTrainer = Timed  # type: ignore[misc]
    trainer = {key: value for key, value in trainer_keys(spec).items() if not key.startswith(("optim", "report"))}
    args = RunArguments(
        data=spec["work"],
        tasks=spec["tasks"],
        encoder=spec["encoder"],
        max_length=spec["max_length"],
        head_blocks=0,
        attn_implementation=spec["attn_implementation"],
        output_dir=trainer.pop("output_dir"),
        trainer=trainer | {"load_best_model_at_end": False},
    )
    result = script.train(args)
    logged = {key: value for entry in result["history"] for key, value in entry.items()}
    last = {name: logged[f"{name}/loss"] for name in spec["tasks"] if f"{name}/loss" in logged}
    run.trained(train_loss=logged["train_loss"], last_losses=last)


def trainer_keys(spec: Spec) -> dict[str, Any]:
    """Arguments that every Trainer gets."""
    return {
        "output_dir": str(Path(spec["work"]) / "output"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": spec["batch_size"],
        "per_device_eval_batch_size": spec["batch_size"],
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "max_grad_norm": CLIP,
        "optim": "adamw_torch_fused",
        "logging_steps": min(50, spec["steps"]),  # once at least, so that there are losses
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": spec["bf16"],
        "use_cpu": device() == "cpu",
        "seed": SEED,
    }
