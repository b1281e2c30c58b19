"""The measures of docs/security.md that are about the code as a whole, and the page itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler.config.values import HttpConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("forecaster", "scaler", "inference")


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the product: its file, its dotted name, and itself."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield str(file.relative_to(ROOT)), ast.unparse(node.func), node


def imports() -> Iterator[tuple[str, str]]:
    """Every module that the product imports, and by whom."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                yield from ((str(file.relative_to(ROOT)), name) for name in names)


def test_nothing_that_is_loaded_can_run() -> None:
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert [(file, name) for file, name in imports() if name.partition(".")[0] in unsafe] == []
    runs = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"}
    found = [(file, name) for file, name, _ in calls() if name in runs]
    found += [(file, name) for file, name, _ in calls() if name == "torch.load" and "fitting" not in file]
    assert found == []
    arrays = [(file, node) for file, name, node in calls() if name in ("np.load", "numpy.load")]
    assert arrays
    for file, node in arrays:
        pickled = {each.arg: ast.unparse(each.value) for each in node.keywords}.get("allow_pickle")
        assert pickled == "False", f"{file} may read a pickle"


def test_no_shell_and_no_unverified_connection() -> None:
    said = {
        (file, f"{keyword.arg}={ast.unparse(keyword.value)}")
        for file, _, node in calls()
        for keyword in node.keywords
        if keyword.arg in ("shell", "verify", "verify_ssl", "check_hostname")
    }
    assert {each for each in said if each[1] in ("shell=True", "verify=False", "verify_ssl=False")} == set()
    text = "".join(file.read_text(encoding="utf-8") for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    assert "CERT_NONE" not in text
    assert "_create_unverified_context" not in text


def test_no_setting_takes_a_secret_as_a_value() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    settings = set(re.findall(r"`([\w.\[\]]+)`", page))
    named = {each for each in settings if re.search(r"(token|password|secret|api_key)", each)}
    assert named, "the page names the files"
    values = {each for each in named if not each.endswith("_file") and not re.search(r"tokens|per_token", each)}
    assert values == set()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org"])
def test_without_a_token_only_loopback_is_listened_on(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reachable from outside: set token_file"):
        HttpConfig(host=host)
    assert HttpConfig(host=host, token_file=tmp_path / "token").host == host


def test_every_test_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", page, re.MULTILINE)
    measures = [row for row in rows if "tests/" in row[2]]
    assert len(measures) >= 15
    for _, _, tests in measures:
        for path in re.findall(r"`([^`]+)`", tests):
            assert (ROOT / path).is_file(), path
