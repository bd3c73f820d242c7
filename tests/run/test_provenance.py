"""Code of the user's own that a run is made with: recorded, and told where it was edited when the run goes on."""

import hashlib
import importlib
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.config import published
from fluxflow_exp.console import Console
from fluxflow_exp.run import opening, provenance
from fluxflow_exp.run.folder import RunFolder
from tests.conftest import toy
from tests.run.conftest import prepared

pytestmark = pytest.mark.usefixtures("quick")
TARGETS = ("my_tv.TV", "my_tv.Edges", "my_package.Passed")
FILES = {
    "my_tv.py": "class TV: ...\nclass Edges: ...\n",
    "my_package/__init__.py": "from my_package.inner import Passed\n",
    "my_package/inner.py": "class Passed: ...\n",
}


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of modules that the configuration below names."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for module in ("my_tv", "my_package", "my_package.inner"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.invalidate_caches()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(published, "_own", set(TARGETS))
    return tmp_path


@cache
def _composed() -> dict[str, Any]:
    return toy(Path(), "~stage.steps.vae_gan", "~stage.steps.flow")


def start(root: Path) -> tuple[RunFolder, str]:
    """A run with own losses as a command leaves it that is killed before its first update; what is in its log."""
    values = deepcopy(_composed()) | {"output_root": str(root / "out")}
    values["stage"]["steps"]["vae"]["trainer"] |= {name.lower(): {"_target_": name} for name in TARGETS}
    log = root / "log.txt"
    log.unlink(missing_ok=True)
    folder, values, lengths, data, _ = prepared(values)
    console = Console()
    opening.open_run(folder, values, lengths, data, console, machine="here")
    console.log_to(log)
    folder.unlock()
    return folder, log.read_text()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_each_own_class_is_recorded_with_the_file_that_defines_it(mine: Path) -> None:
    folder, said = start(mine)
    assert folder.read_record()["own_code"] == {
        "my_package.Passed": [{"file": "inner.py", "sha256": digest(FILES["my_package/inner.py"])}],
        "my_tv.Edges": [{"file": "my_tv.py", "sha256": digest(FILES["my_tv.py"])}],
        "my_tv.TV": [{"file": "my_tv.py", "sha256": digest(FILES["my_tv.py"])}],
    }
    assert "Note" not in said


def test_other_own_code_is_told_once_and_the_run_goes_on(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(mine)
    old, new = FILES["my_tv.py"], FILES["my_tv.py"] + "# repaired\n"
    (mine / "my_tv.py").write_text(new)
    capsys.readouterr()
    folder, said = start(mine)
    note = (
        "Note: the code of my_tv.Edges and my_tv.TV is not the one that this run was made with "
        f"(then: my_tv.py {digest(old)[:10]}, now: my_tv.py {digest(new)[:10]})\n"
    )
    assert "Continuing the run" in said
    assert said.endswith(note)
    assert note in capsys.readouterr().out
    own = folder.read_record()["own_code"]
    assert [each["sha256"] for each in own["my_tv.TV"]] == [digest(old), digest(new)]
    assert len(own["my_package.Passed"]) == 1
    assert "Note" not in start(mine)[1]
    (mine / "my_tv.py").write_text(old)
    assert f"(then: my_tv.py {digest(new)[:10]}, now: my_tv.py {digest(old)[:10]})" in start(mine)[1]


def test_a_run_that_recorded_none_goes_on_and_records_it(mine: Path) -> None:
    folder, _ = start(mine)
    record = folder.read_record()
    own = record.pop("own_code")
    folder.write_record(record)
    (mine / "my_tv.py").write_text("class TV: ...\nclass Edges: ...\n# repaired\n")
    assert "Note" not in start(mine)[1]
    assert folder.read_record()["own_code"].keys() == own.keys()


def test_what_has_no_file_is_not_recorded(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_own", {"builtins.dict", "my_tv.TV"})
    (mine / "my_tv.py").write_text("from functools import partial\nTV = partial(dict)\n")
    nodes = {"a": {"_target_": "builtins.dict"}, "b": [{"_target_": "my_tv.TV"}], "c": {"_target_": "torch.optim.Adam"}}
    assert [(name, each["file"]) for name, (each,) in provenance.own_code(nodes).items()] == [("my_tv.TV", "my_tv.py")]
