"""Every notebook runs top to bottom, asks in its first cell, answers in its last, and is stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 150

every_notebook = pytest.mark.parametrize("path", [pytest.param(each, id=each.stem) for each in NOTEBOOKS])


def executed(path: Path, *, then: str = "") -> nbformat.NotebookNode:
    """The notebook after a run from the repository's root, with one more code cell `then` at its end."""
    notebook = nbformat.read(path, as_version=4)
    if then:
        notebook.cells.append(nbformat.v4.new_code_cell(then))
    return NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()


@every_notebook
def test_it_is_stored_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@every_notebook
def test_it_asks_first_and_answers_last(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == cells[-1].cell_type == "markdown"
    assert cells[0].source.splitlines()[0].startswith("# ")
    assert cells[0].source.splitlines()[0].endswith("?")
    assert cells[-1].source.startswith("## Answer")


@every_notebook
def test_it_has_no_logic(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not any(
                line.startswith(("def ", "class ", "for ", "while ", "if ")) for line in cell.source.splitlines()
            )


@pytest.mark.slow
def test_the_first_look_runs_and_its_answer_is_true() -> None:
    notebook = executed(
        ROOT / "notebooks" / "01_first_look.ipynb", then="import json; print(json.dumps(week.as_json()))"
    )
    charts = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/svg+xml" in output.get("data", {})
    ]
    assert len(charts) == 3
    (printed,) = notebook.cells[-1].outputs
    scores = {each["name"]: each for each in json.loads(printed["text"])["policies"]}
    missed = {name: each["under_provisioned_minutes"] for name, each in scores.items()}
    assert missed["headstart"] < 0.5 * missed["reactive"]
    assert scores["headstart"]["gpu_hours"] < 1.5 * scores["reactive"]["gpu_hours"]
