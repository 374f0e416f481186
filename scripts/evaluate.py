"""Score a trained model on labelled rows.

python scripts/evaluate.py runs/demo --data demo
python scripts/evaluate.py runs/paper_qa --data data/dfp --output_dir runs/paper_qa/scores
"""

from qabert.cli import run

if __name__ == "__main__":
    run("evaluate")
