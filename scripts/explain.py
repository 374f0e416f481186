"""Show which words an answer comes from.

python scripts/explain.py runs/demo --task sst "A lovely film." --html why.html --png why.png
python scripts/explain.py runs/demo --task sts "A man plays a guitar." "Someone makes music."
python scripts/explain.py runs/paper_qa --data data/dfp --rows 200 --output_dir runs/paper_qa/saliency
"""

from qabert.cli import run

if __name__ == "__main__":
    run("explain")
