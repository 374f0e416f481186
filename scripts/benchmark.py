"""Compare the speed of training, evaluation and prediction with other packages', side by side in one run.

python scripts/benchmark.py --data data/dfp --output_dir runs/benchmark
python scripts/benchmark.py --data data/dfp --output_dir runs/benchmark --contenders limit,qabert --rounds 4
"""

from qabert.cli import run

if __name__ == "__main__":
    run("benchmark")
