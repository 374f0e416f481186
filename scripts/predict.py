"""Ask a trained model.

python scripts/predict.py runs/demo --task sst "A lovely film."
python scripts/predict.py runs/demo --task sts "A man plays a guitar." "Someone makes music."
cut -f3 reviews.tsv | python scripts/predict.py runs/demo --task sst --file -
torchrun --nproc-per-node 2 scripts/predict.py runs/demo --task quora --file pairs.csv --output answers.csv
python scripts/predict.py runs/paper_qa --data data/dfp --output_dir predictions
"""

from qabert.cli import run

if __name__ == "__main__":
    run("predict")
