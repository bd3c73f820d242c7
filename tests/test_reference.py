"""Documents that are written from the code, and links between documents."""

import importlib.util
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_the_configuration_reference_is_fresh() -> None:
    path = ROOT / "docs" / "reference" / "make_config.py"
    spec = importlib.util.spec_from_file_location("make_config", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = path.with_name("config.md").read_text(encoding="utf-8")
    assert written == module.text(), "run: python docs/reference/make_config.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_no_document_has_remains_of_a_merge() -> None:
    marks = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
    texts = [*DOCUMENTS, ROOT / "CHANGELOG.md"]
    assert [path for path in texts if marks.search(path.read_text(encoding="utf-8"))] == []


def test_documents_agree_on_how_long_the_quickstart_takes() -> None:
    table = (ROOT / "docs" / "benchmarks" / "quickstart.md").read_text(encoding="utf-8").split("\n## ")[0]
    rows = re.findall(r"^\| (.*) / \**(\d+)\** \|$", table, re.MULTILINE)
    two, one = ([int(wall) for row, wall in rows if ("own threads" in row) == both] for both in (True, False))
    number = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
    said = (
        f"[{number[min(two) // 60]} to {number[-(-max(two) // 60)]} minutes](docs/benchmarks/quickstart.md) on two free"
    )
    assert f"{said} CPU cores, {number[round(statistics.median(one) / 60)]} on one" in (ROOT / "README.md").read_text()
    expected = (ROOT / "docs" / "expected.md").read_text(encoding="utf-8")
    minutes, seconds = re.findall(r"^\| (\d+):(\d+) \| 1,536 ", expected, re.MULTILINE)[0]
    assert min(one) <= 60 * int(minutes) + int(seconds) <= max(one)
    assert f"it takes {min(two) // 60}:{min(two) % 60:02d};" in expected


def test_every_proof_of_the_parity_table_exists() -> None:
    text = (ROOT / "docs" / "reference" / "fluxflow-parity.md").read_text(encoding="utf-8")
    tests = {
        f"{path.relative_to(ROOT / 'tests').with_suffix('')}::{name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`([\w/]*test_\w+::test_\w+)`", text))
    assert len(named) > 50
    assert named <= tests, sorted(named - tests)


def test_the_map_names_files_and_names_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)(?:: (\w+))?`", text)
    assert len(named) > 40
    for file, name in named:
        source = (ROOT / "fluxflow_exp" / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"\b(def|class) {name}\b", source), (file, name)
