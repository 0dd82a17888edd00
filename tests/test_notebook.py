"""docs/tutorial.ipynb from top to bottom, in a kernel of its own, with less data behind it."""

import os

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

SMALL = (
    '"data=synthetic", "data.source.train_size=64", "data.source.test_size=32", "callbacks.pictures.manifold_steps=3", '
    '"trainer=cpu", "trainer.max_epochs=2"'
)


def kinds(cell):
    """What a cell shows: text, pictures, tables."""
    return [set(output.get("data", {"error": 0})) for output in cell.outputs if output.output_type != "stream"]


def test_the_notebook(tmp_path, monkeypatch):
    """Each cell runs, and shows what the notebook has been saved with."""
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install -e '.[notebook]'")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install -e '.[notebook]'")
    import nbformat

    saved = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    assert all(kinds(cell) or "import" in cell.source for cell in saved.cells if cell.cell_type == "code")
    notebook = nbformat.from_dict(saved)
    for cell in notebook.cells:
        if "cvae.train(" in cell.source and cell.cell_type == "code":
            assert '"trainer.max_epochs=2"' in cell.source
            cell.source = cell.source.replace('"trainer.max_epochs=2"', SMALL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(notebook, timeout=900).execute(cwd=str(tmp_path))  # an error of a cell is raised
    of_now, of_then = ([kinds(cell)[-1:] for cell in each.cells if "outputs" in cell] for each in (notebook, saved))
    assert of_now == of_then
    assert list(tmp_path.glob("outputs/tf_tutorial/*/metrics.json"))
