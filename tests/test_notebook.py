"""The notebook on the site runs from its first cell to its last."""

import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "by_hand.ipynb"


@pytest.mark.long
def test_the_notebook_trains_predicts_and_draws(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "12 unlabeled cases" in said and said.count("phase 1 begins") == 1
    assert said.count(", mixed ") == 3  # the second half of six epochs
    assert (tmp_path / "by_hand" / "picture.png").stat().st_size > 10_000
