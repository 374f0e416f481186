"""Answer and explain sentences on a web page of this machine.

python scripts/demo.py runs/demo --port 7860
"""

from qabert.cli import run

if __name__ == "__main__":
    run("demo")
