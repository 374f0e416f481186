"""The notebook runs from top to bottom, without a network and on few rows."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "scripts" / "notebooks" / "demo.ipynb"


@pytest.fixture(scope="module")
def notebook():
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def test_no_output_is_kept(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_it_runs(notebook, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (settings,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    assert "epochs, rows = " in settings.source and "folder = " in settings.source
    settings.source = f"epochs, rows, folder = 1, 24, {str(tmp_path / 'run')!r}"
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [
        (output.get("text") or "") + "".join(map(str, output.get("data", {})))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    text = "\n".join(shown)
    assert "liked" in text and "majority" in text and "probabilities" in text
    assert "text/html" in text and "image/png" in text
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
