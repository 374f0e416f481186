"""`python -m qabert.benchmark.worker SPEC.json`: one contender, one process, one result."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def work(spec: dict[str, Any]) -> dict[str, Any]:
    """Run what a specification says.

    Returns:
        Results by part, and of the process: `peak_memory` and `gpu_peak_memory` (MiB; None without a GPU), `device`,
        `threads`.
    """
    pairs = json.loads((Path(spec["work"]) / "pairs.json").read_text(encoding="utf-8"))
    if "predict" in spec["parts"]:
        from qabert.benchmark.prediction import predict

        parts = {"predict": predict(spec, pairs["predict"])}
    else:
        from qabert.benchmark.peers import TRAINING
        from qabert.benchmark.training import Run

        run = Run(spec)
        TRAINING[spec["contender"]](spec, pairs, run)
        parts = {part: run.result[part] for part in spec["parts"]}
    import torch

    from qabert.benchmark.meters import peak_memory

    gpu = torch.cuda.is_available()
    return {
        "parts": parts,
        "peak_memory": peak_memory(),
        "gpu_peak_memory": torch.cuda.max_memory_allocated() / 2**20 if gpu else None,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(given["result"]).write_text(json.dumps(work(given)), encoding="utf-8")
