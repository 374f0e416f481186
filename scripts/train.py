"""Train one encoder on several sentence tasks.

accelerate launch scripts/train.py scripts/recipes/demo.yaml
accelerate launch --config_file accelerate_config.yaml scripts/train.py scripts/recipes/paper_qa.yaml \
    --data data/dfp --output_dir runs/paper_qa --seed 1
"""

from qabert.cli import run

if __name__ == "__main__":
    run("train")
