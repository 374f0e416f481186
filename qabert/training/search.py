"""A hyperparameter search: the study of `Trainer.hyperparameter_search`, whose every trial is a whole run.

```
OUT/sweep.yaml      what is tried
OUT/sweep.db        the study, optuna's (SQLite)
OUT/trials.csv      a line a trial;  OUT/figures/  the same as pictures
OUT/best.yaml       a recipe of the best trial, for scripts/train.py
OUT/trials/N/       metrics.json and predictions/ of a trial; its model with `keep_models`
```

A trial that is done is never done again; one that was cut off goes on from its newest checkpoint.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qabert.errors import InputError, RunError, Stopped
from qabert.files import check_place, whole_file
from qabert.processes import launched_processes
from qabert.training.output import METRICS, alone
from qabert.training.plans import changed_key
from qabert.training.run import train
from qabert.training.sweep_results import is_done, write_results, write_trials
from qabert.training.sweeps import Sweep, packed, shown, unpacked
from qabert.yaml_files import read_yaml

if TYPE_CHECKING:
    import optuna

SWEEP, DATABASE = "sweep.yaml", "sweep.db"
#: What stays of a trial whose model isn't kept.
_KEPT = {METRICS, "arguments.yaml", "predictions", "tensorboard", "trackers.json"}
#: Settings that a sweep may change underway.
_FREE = ("disable_tqdm", "report_to", "logging_steps", "dataloader_num_workers", "save_total_limit", "cache")


class TrialFailed(Exception):
    """A trial broke off for a reason of its own, such as a loss that is no number; the others go on."""


class TrialReport(TrainerCallback):
    """Tells the study every evaluation's score, by the evaluation's number, and ends a trial that isn't worth its end.

    Not by the optimizer's step, as the Trainer would: trials with other batch sizes are compared with each other.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """After all tasks are scored."""
        import optuna

        if metrics is None or "eval_score" not in metrics:  # before or after training
            return
        number = sum("eval_score" in entry for entry in state.log_history)
        self.trial.report(metrics["eval_score"], number)
        if self.trial.should_prune():
            self.trial.set_user_attr("evaluations", number)
            raise optuna.TrialPruned


def _stand_in() -> Any:
    return torch.nn.Linear(1, 1)


class SearchTrainer(Trainer):
    """The `Trainer` that `hyperparameter_search` is asked of.

    What it does to a trial is to set attributes of one Trainer's arguments.  Here a trial's keys may change rows,
    features, sampler, heads and the encoder, and have to be checked as a run's are; so its `train` is a whole run, in a
    folder of its own, and its own model is a stand-in of one weight.

    Args:
        sweep: What to try.
        output: The sweep's folder.
        keep_models: Keep every trial's model, instead of its scores alone.
    """

    def __init__(self, sweep: Sweep, output: Path, keep_models: bool) -> None:
        self.sweep, self.output, self.keep_models = sweep, output, keep_models
        self.objective: float | None = None
        arguments = sweep.arguments(next(sweep.corners()), output)
        args = TrainingArguments(str(output), use_cpu=arguments.training_arguments().use_cpu, report_to="none")
        super().__init__(model_init=_stand_in, args=args)

    def search(self, study: optuna.Study, trials: int) -> None:
        """Run so many trials, those that wait in the study first.

        Raises:
            InputError: A trial's input can't be used.
            RunError: The disk is full, or the like.
        """
        self.hyperparameter_search(
            lambda trial: {}, lambda metrics: metrics["eval_score"], trials, "maximize", "optuna",
            storage=_storage(self.output), study_name=study.study_name, load_if_exists=True, sampler=study.sampler,
            pruner=study.pruner, catch=(TrialFailed,), gc_after_trial=True,
        )  # fmt: skip

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        """One trial."""
        import optuna

        number = trial.user_attrs.get("trial")
        if number is None:
            number = 1 + max((other.user_attrs.get("trial", 0) for other in trial.study.trials), default=0)
            trial.set_user_attr("trial", number)
        spaces = self.sweep.distributions()
        values = {key: unpacked(_suggest(trial, key, spaces[key])) for key in self.sweep.space}
        folder = self.output / "trials" / str(number)
        args = self.sweep.arguments(values, folder)
        args.resume = "auto"
        args.trainer.setdefault("run_name", f"{self.output.resolve().name}-{number}")
        print(f"\ntrial {number} of {self.sweep.number}: {shown(values)}", flush=True)
        AcceleratorState._reset_state()  # its precision may be another one than the last trial's
        start = time.time()
        try:
            result = train(args, [TrialReport(trial)])
        except optuna.TrialPruned:
            print(f"trial {number}: pruned", flush=True)
            self._drop_model(folder)
            raise
        except RunError as error:
            if isinstance(error.__cause__, OSError):  # the next trial's disk would be as full
                raise
            trial.set_user_attr("error", str(error))
            print(f"trial {number}: failed: {error}", flush=True)
            self._drop_model(folder)
            raise TrialFailed(str(error)) from error
        finally:
            trial.set_user_attr("seconds", round(trial.user_attrs.get("seconds", 0) + time.time() - start, 1))
        trial.set_user_attr("scores", result["scores"])
        trial.set_user_attr("steps", result["steps"])
        self.objective = result["score"]
        print(f"trial {number}: score {result['score']:.4f}", flush=True)
        self._drop_model(folder)

    def _drop_model(self, folder: Path) -> None:
        if self.keep_models or not folder.is_dir():
            return
        for path in folder.iterdir():
            if path.is_dir() and path.name not in _KEPT:
                shutil.rmtree(path)
            elif path.name not in _KEPT:
                path.unlink()


def _suggest(trial: optuna.Trial, key: str, space: Any) -> Any:
    """A value of a distribution; optuna has a function for each kind."""
    if hasattr(space, "choices"):
        return trial.suggest_categorical(key, space.choices)
    suggest: Any = trial.suggest_float if type(space).__name__ == "FloatDistribution" else trial.suggest_int
    return suggest(key, space.low, space.high, step=space.step, log=space.log)


def search(sweep: Sweep, output: Path, *, keep_models: bool = False) -> list[Path]:
    """Run the trials that aren't done yet, and write what came out.

    Args:
        sweep: What to try.
        output: Folder of the sweep; one that was begun goes on.
        keep_models: Keep every trial's model.

    Returns:
        The files written.

    Raises:
        InputError: The sweep can't work, differs from the one that `output` holds, or there are several processes.
        RunError: No trial came to its end, or the disk is full.
        Stopped: A signal asked to stop.
    """
    _require_optuna()
    from qabert.evaluation.figures import require_matplotlib

    require_matplotlib()  # now, not after hours of training
    if (count := launched_processes()) > 1:
        raise InputError(
            f"the launcher started {count} processes, and a sweep is one: python scripts/sweep.py …; for several "
            "GPUs give each a sweep of its own (CUDA_VISIBLE_DEVICES), or an agent of scripts/sweeps/wandb.yaml"
        )
    check_place(output, folder=True)
    sweep.check(output)
    _same_sweep(sweep, output)
    output.mkdir(parents=True, exist_ok=True)
    with alone(output):
        with whole_file(output / SWEEP) as file:
            yaml.safe_dump(sweep.to_dict(), file, sort_keys=False, allow_unicode=True)
        study = _study(sweep, output)
        left = _prepare(sweep, study)
        if done := sweep.number - left:
            print(f"{done} of {sweep.number} trials were done before")
        try:
            if left > 0:
                SearchTrainer(sweep, output, keep_models).search(study, left)
        except Stopped as stopped:
            raise Stopped(
                stopped.code - 128 if isinstance(stopped.code, int) else 15,
                "the sweep was stopped; the same command goes on with this trial, from its newest checkpoint",
            ) from None
        except ValueError as error:
            if isinstance(error, InputError) or "No trials are completed" not in str(error):
                raise
        finally:
            written = write_trials(sweep, study, output)
        return written + write_results(sweep, study, output)


def _require_optuna() -> None:
    try:
        import optuna
    except ImportError:
        raise InputError('a sweep needs optuna, which isn\'t installed: pip install -e ".[sweep]"') from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _same_sweep(sweep: Sweep, output: Path) -> None:
    if not (output / SWEEP).is_file():
        if output.is_dir() and any(path.name != ".lock" for path in output.iterdir()):
            raise InputError(f"output_dir {output} holds other files and no {SWEEP}; choose another folder")
        return
    before, now = read_yaml(output / SWEEP), sweep.to_dict()
    flat = [values | values.pop("settings") for values in (before, now)]
    free = {*_FREE, "trials", "pruner", *(() if sweep.sampler == "random" else ("seed",))}
    if (key := changed_key(flat[0], flat[1], free)) is not None:
        raise InputError(
            f"key '{key}' was {flat[0].get(key)!r} in the sweep that {output} holds and is {flat[1].get(key)!r} now: "
            "choose another --output_dir, or go on with the same values"
        )


def _storage(output: Path) -> str:
    return f"sqlite:///{(output / DATABASE).resolve()}"


def _study(sweep: Sweep, output: Path) -> optuna.Study:
    import optuna

    pruner: dict[str, Any] = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
    }
    study = optuna.create_study(
        storage=_storage(output),
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
        pruner=pruner[sweep.pruner](),
    )
    # A sampler that begins anew draws what it drew before: it is told how far the study has come.
    if sweep.sampler == "tpe":
        study.sampler = optuna.samplers.TPESampler(seed=sweep.seed + len(study.trials))
    return study


def _prepare(sweep: Sweep, study: optuna.Study) -> int:
    """Queue the trials that are known beforehand and those that were cut off; how many are to be run."""
    from optuna.trial import TrialState

    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
    trials = study.trials
    done = {trial.user_attrs["trial"] for trial in trials if is_done(trial)}
    waiting = {trial.user_attrs["trial"] for trial in trials if trial.state == TrialState.WAITING}
    points = sweep.points()
    if points is None:
        cut = {trial.user_attrs["trial"]: trial for trial in trials if "trial" in trial.user_attrs}
        known = {number: (trial.params, trial.user_attrs.get("seconds", 0)) for number, trial in cut.items()}
    else:
        spent = {trial.user_attrs["trial"]: trial.user_attrs.get("seconds", 0) for trial in trials}
        known = {number: (point, spent.get(number, 0)) for number, point in enumerate(points, 1)}
    for number, (values, seconds) in sorted(known.items()):
        if number not in done | waiting:
            fixed = {key: packed(value) for key, value in values.items()}
            study.enqueue_trial(fixed, user_attrs={"trial": number, "seconds": seconds})
    return max(sweep.number - len(done), 0)
