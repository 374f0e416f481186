"""Put a trained model on the hub.

python scripts/push.py runs/demo owner/demo --private
"""

from qabert.cli import run

if __name__ == "__main__":
    run("push")
