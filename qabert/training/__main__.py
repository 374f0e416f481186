"""`python -m qabert.training RECIPE.yaml --key value …`: what `scripts/train.py` does, without a script's path."""

from qabert.cli import train_main

if __name__ == "__main__":
    train_main()
