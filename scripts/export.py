"""Write a model as one graph, ONNX or torch's own, checked against the model.

python scripts/export.py runs/demo runs/demo-onnx
python scripts/predict.py runs/demo-onnx --task sst "A lovely film."
python scripts/export.py runs/demo runs/demo-torch --format torch
"""

from qabert.cli import run

if __name__ == "__main__":
    run("export")
