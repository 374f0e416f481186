"""Search a recipe's keys for the best dev score.

python scripts/sweep.py scripts/sweeps/tpe.yaml --data data/dfp --output_dir runs/sweep
python scripts/sweep.py scripts/sweeps/paper_grid.yaml --data data/dfp --output_dir runs/paper_grid
"""

from qabert.cli import run

if __name__ == "__main__":
    run("sweep")
