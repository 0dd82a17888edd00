"""The notebooks of docs/ from top to bottom, each in a kernel of its own, with less to train."""

import os

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

LESS = {  # notebook -> words of its training, what stands in their place, and where its run is
    "tutorial": (
        '"trainer.max_epochs=2"',
        '"data=synthetic", "data.source.train_size=64", "data.source.test_size=32", "trainer=cpu", '
        '"callbacks.pictures.manifold_steps=3", "trainer.max_epochs=2"',
        "outputs/tf_tutorial/*/metrics.json",
    ),
    "own_images": (
        '"trainer.max_epochs=20"',
        '"model.filters=4", "trainer=cpu", "callbacks.pictures.manifold_steps=3", "trainer.max_epochs=2"',
        "shapes.html",
    ),
}


def kinds(cell):
    """What a cell shows: text, pictures, tables."""
    return [set(output.get("data", {"error": 0})) for output in cell.outputs if output.output_type != "stream"]


@pytest.mark.parametrize("name", LESS)
def test_a_notebook(name, tmp_path, monkeypatch):
    """Each cell runs, and shows what the notebook has been saved with."""
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install -e '.[notebook]'")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install -e '.[notebook]'")
    import nbformat

    words, less, left = LESS[name]
    saved = nbformat.read(ROOT / "docs" / f"{name}.ipynb", as_version=4)
    silent = ("import cvae", "!")  # cells that begin so need not show anything
    assert all(kinds(cell) or cell.source.startswith(silent) for cell in saved.cells if cell.cell_type == "code")
    notebook = nbformat.from_dict(saved)
    for cell in notebook.cells:
        if "cvae.train(" in cell.source and cell.cell_type == "code":
            assert words in cell.source
            cell.source = cell.source.replace(words, less)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(notebook, timeout=900).execute(cwd=str(tmp_path))  # an error of a cell is raised
    of_now, of_then = ([kinds(cell)[-1:] for cell in each.cells if "outputs" in cell] for each in (notebook, saved))
    assert of_now == of_then
    assert list(tmp_path.glob(left))


def test_all_notebooks_are_run():
    assert {path.stem for path in (ROOT / "docs").glob("*.ipynb")} == set(LESS)
