"""Every row of the table has its test, and docs/faults.md says the same as the tests."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "faults.md"
ROWS = range(1, 46)


def rows_tested() -> dict[int, dict[str, str]]:
    """The tests of each row, and the file that each is in."""
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for file in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.FunctionDef) and re.match(r"test_row_(\d\d)_", node.name)
            if isinstance(node, ast.FunctionDef) and named:
                assert node.name not in found[int(named[1])], f"{node.name} is there twice"
                found[int(named[1])][node.name] = file.name
    return found


def files_by_row() -> dict[int, set[str]]:
    """The files that the page names, by row."""
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {int(number): set(re.findall(r"`(test_\w+\.py)`", files)) for number, files in rows}


def test_every_row_has_a_test_of_its_number() -> None:
    found = rows_tested()
    missing = [number for number in ROWS if not found.get(number)]
    assert not missing, f"no test_row_NN_… in tests/faults for rows {missing}"
    assert set(found) <= set(ROWS)


def test_the_page_has_every_row_and_names_the_files_of_its_tests() -> None:
    told, found = files_by_row(), rows_tested()
    assert list(told) == list(ROWS)
    wrong = {
        number: (sorted(told[number]), sorted(set(tests.values())))
        for number, tests in found.items()
        if set(tests.values()) != told[number]
    }
    assert not wrong, f"docs/faults.md says, and there is: {wrong}"
