"""Time per example and memory as rows and tasks grow: `python tests/faults/growth.py`.

A tiny encoder trains on rows that lie on disk, so that what this package does around it shows.  Each line is a process
of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, BATCH = 300, 32
SIZES = [(10_000, 3), (100_000, 3), (1_000_000, 3), (100_000, 10), (100_000, 30)]


def features(rows: int, task: str, folder: Path):
    """Features of one task in an Arrow file, memory-mapped."""
    import datasets
    import numpy as np
    from datasets.arrow_writer import ArrowWriter

    rng = np.random.default_rng(len(task) + rows)
    path = folder / f"{task}.arrow"
    with ArrowWriter(path=str(path)) as writer:
        for first in range(0, rows, 10_000):
            count = min(10_000, rows - first)
            lengths = rng.integers(8, 24, count)
            ids = [[rng.integers(5, 800, length).tolist()] for length in lengths]
            types = [[[0] * int(length)] for length in lengths]
            labels = rng.integers(0, 2, count).tolist()
            columns = {"input_ids": ids, "token_type_ids": types, "length": lengths.tolist(), "labels": labels}
            writer.write_batch(columns | {"task": [task] * count})
        writer.finalize()
    return datasets.Dataset.from_file(str(path))


def anonymous() -> float:
    """Memory of this process that no file stands behind, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def one(rows: int, count: int) -> None:
    """Train for `STEPS` steps; prints what was measured as JSON."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch
    from conftest import build_tokenizer, tiny_config
    from transformers import TrainerCallback

    from qabert.modeling import QABertConfig, QABertModel
    from qabert.tasks import Task
    from qabert.training.arguments import RunArguments
    from qabert.training.trainer import QABertTrainer

    torch.set_num_threads(1)
    values = {"problem": "binary", "labels": ["no", "yes"], "columns": {"text_a": "a", "label": "l"}, "question": "q?"}
    tasks = {f"task{number}": Task.from_dict(values | {"name": f"task{number}"}) for number in range(count)}
    with tempfile.TemporaryDirectory() as folder:
        data = {name: features(rows // count, name, Path(folder)) for name in tasks}
        before = anonymous()
        start = time.perf_counter()
        config = QABertConfig(
            encoder=tiny_config().to_dict(), tasks=[task.to_dict() for task in tasks.values()], head_blocks=0
        )
        keys = {"use_cpu": True, "disable_tqdm": True, "max_steps": STEPS, "per_device_train_batch_size": BATCH,
                "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}  # fmt: skip
        args = RunArguments(output_dir=str(Path(folder) / "out"), trainer=keys).training_arguments()
        trainer = QABertTrainer(
            QABertModel(config), args, tasks=tasks, train_dataset=data, processing_class=build_tokenizer()
        )
        marks: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                marks.append(time.perf_counter())

        trainer.add_callback(Clock())
        trainer.train()
    per_example = (marks[-1] - marks[0]) / (STEPS - 1) / BATCH
    result = {"first": marks[0] - start, "example": per_example * 1e6, "memory": anonymous() - before}
    print(json.dumps(result))


def main() -> None:
    """Print the table."""
    print("| rows | tasks | seconds to the first step | µs an example | MiB above the data's |\n|---|---|---|---|---|")
    for rows, count in SIZES:
        command = [sys.executable, __file__, str(rows), str(count)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TRANSFORMERS_VERBOSITY": "error"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {rows:,} | {count} | {found['first']:.1f} | {found['example']:.0f} | {found['memory']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    one(int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) == 3 else main()
