"""A long run of short epochs, an evaluation and a checkpoint every few seconds: what does it take of the machine?

    python tests/faults/soak.py --minutes 30

Trains a small random encoder on the demo in a process of its own, looks at that process every few seconds, ends it with
SIGTERM, and prints memory, open files, threads and checkpoints at the start, in the middle and at the end.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

#: Seconds between two looks, and looks that one line of the table is the median of.
PAUSE, WINDOW = 3.0, 10


def look(process: int, output: Path) -> dict[str, float]:
    """What a process holds now."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    folders = [path for path in output.glob("checkpoint-*") if path.is_dir()]
    stray = [name for _, names, _ in os.walk(output) for name in names if name.startswith(".")]  # may go while we look
    return {
        "memory, MiB": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "open files": len(os.listdir(f"/proc/{process}/fd")),
        "checkpoints": len(folders),
        "folders being written": len(stray),
        "step": max((int(path.name.split("-")[1]) for path in folders), default=0),
    }


def start(folder: Path) -> subprocess.Popen[str]:
    """The training, which would go on for days."""
    from conftest import build_tokenizer, tiny_config
    from transformers import AutoModel

    encoder = folder / "encoder"
    AutoModel.from_config(tiny_config("bert")).save_pretrained(encoder)
    build_tokenizer().save_pretrained(encoder)
    words = (
        f"--data demo --encoder {encoder} --format joint --max_length 48 --head_blocks 1 --use_cpu true "
        "--disable_tqdm true --num_train_epochs 1000000 --examples_per_epoch sst=64,sts=64,quora=64 "
        "--eval_examples sst=32,sts=32,quora=32 --lr_scheduler_type constant --logging_steps 5 --order interleaved"
    )
    return subprocess.Popen(
        [sys.executable, "scripts/train.py", *words.split(), "--output_dir", str(folder / "run")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )


def main() -> None:
    """Train, look, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = start(folder)
        looks: list[dict[str, float]] = []
        begun = time.time()
        while time.time() - begun < minutes * 60:
            time.sleep(PAUSE)
            if process.poll() is not None:
                sys.exit((folder / "log").read_text()[-3000:])
            now = look(process.pid, folder / "run")
            if now["step"]:  # not before the first checkpoint
                looks.append(now)
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
        log = (folder / "log").read_text()
    evaluations = log.count("eval · step")
    moments = {"start": looks[:WINDOW], "middle": looks[len(looks) // 2 :][:WINDOW], "end": looks[-WINDOW:]}
    print(f"{minutes:g} minutes, {looks[-1]['step']:,.0f} steps, {evaluations:,} evaluations, each with a checkpoint")
    print("| | " + " | ".join(moments) + " |\n|---|" + "---:|" * len(moments))
    for key in looks[0]:
        if key != "step":
            values = [statistics.median(each[key] for each in window) for window in moments.values()]
            print(f"| {key} | " + " | ".join(f"{value:,.1f}".removesuffix(".0") for value in values) + " |")
    print(f"SIGTERM: exit code {code}; {log.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
