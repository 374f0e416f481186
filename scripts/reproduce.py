"""Train the paper's models side by side and write a report with its tables and ours.

python scripts/reproduce.py scripts/reproductions/paper.yaml --data data/dfp --output_dir runs/paper
python scripts/reproduce.py scripts/reproductions/questions.yaml --data data/dfp --output_dir runs/questions --jobs 2
"""

from qabert.cli import run

if __name__ == "__main__":
    run("reproduce")
