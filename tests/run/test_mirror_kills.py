"""Killed at every write, rename and copy of a run with a mirror, a run still comes to the same bytes.

The file operations of an undisturbed run are counted; then, for each in turn, a run is killed there and continued by
the same command: once as it lies, once with its folder lost, so that all there is comes from the mirror.
"""

import copy
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fluxflow_exp import files, verify
from fluxflow_exp.run import diff
from fluxflow_exp.run.folder import RunFolder
from tests.conftest import toy
from tests.helpers.children import finish
from tests.helpers.file_faults import FileFault, Operation, needs_compiler, operations

pytestmark = needs_compiler

SIGKILL = -9
WORDS = [
    "stage.steps.vae.batch_size=4",
    "stage.steps.vae.max_updates=4",
    "data.n_images=8",
    "data.n_validation=4",
    "evaluation.images=4",
    "samples.count=1",
    "log_every=1",
    "checkpoint.every_updates=2",
]
# The disk is as before them: a kill there is a kill at the operation after.
CHANGE_NOTHING = ("fsync", "attributes")
UNCERTAIN = 5  # operations, by which runs differ: a longer path or time is written in one piece more
SHARES, STRIDE = 16, 97


class Peace(NamedTuple):
    run: Path
    values: dict[str, Any]
    operations: list[Operation]
    behind: Path  # a run and its mirror, whose own checkpoints are damaged
    restoring: list[Operation]


def few_graphs() -> None:
    """A graph stands for all: they take half of the time of such a short run."""
    from fluxflow_exp import plot

    plot.draw = lambda graph: [files.write_text(graph / "losses.png", "drawn") or graph / "losses.png"]  # type: ignore


def at(values: dict[str, Any], place: Path) -> dict[str, Any]:
    """The same command for another output folder and mirror."""
    moved = copy.deepcopy(values)
    moved["output_root"], moved["checkpoint"]["mirror"] = str(place / "outputs"), str(place / "volume")
    return moved


def changing(log: Path) -> list[Operation]:
    return [each for each in operations(log) if each.kind not in CHANGE_NOTHING]


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Peace:
    root = tmp_path_factory.mktemp("peace")
    values = toy(root, *WORDS, f"checkpoint.mirror={root}", stage="vae")
    whole, behind, restored, log = root / "whole", root / "behind", root / "restored", root / "log"
    assert finish(at(values, whole), log, few_graphs, FileFault((whole,), log=root / "whole.txt")) == 0
    done = changing(root / "whole.txt")
    published = next(each.number for each in done if "safetensors" in each.path.name)
    assert finish(at(values, behind), log, few_graphs, FileFault((behind,), published)) == SIGKILL
    for path in behind.glob("outputs/vae/checkpoints/*.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    shutil.copytree(behind, restored)
    assert finish(at(values, restored), log, few_graphs, FileFault((restored,), log=root / "restored.txt")) == 0
    back = changing(root / "restored.txt")
    until = next(each.number for each in back if each.path.name == "vae" and each.kind == "rename")
    return Peace(whole / "outputs" / "vae", values, done, behind, [each for each in back if each.number <= until + 5])


def differences(run: Path, peace: Peace) -> list[str]:
    found, counts = diff.differences(peace.run, run)
    assert all(counts.values()), counts
    published = [path.name for path in peace.run.glob("weights/*.safetensors")]
    found += [
        name
        for name in published
        if (run / "weights" / name).read_bytes() != (peace.run / "weights" / name).read_bytes()
    ]
    return found + verify.problems(RunFolder(run))[0]


def replay(
    operation: Operation, peace: Peace, root: Path, *, lost: tuple[bool, ...], begun: Path | None = None
) -> list[str]:
    """What is wrong after a kill at an operation of a run, new or `begun`, and a continuation."""
    place, log = root / str(operation.number), root / "log"
    fault = FileFault((place,), operation.number, half=operation.kind in ("write", "copy"))
    if begun:
        shutil.copytree(begun, place)
    else:
        place.mkdir()
    code = finish(at(peace.values, place), log, few_graphs, fault)
    if code == 0 and operation.number > peace.operations[-1].number - UNCERTAIN:
        return []
    assert code == SIGKILL, (operation, log.read_text())
    found = []
    for folder_lost in lost:
        again = root / f"{operation.number}-{folder_lost}"
        shutil.copytree(place, again)
        if folder_lost:
            shutil.rmtree(again / "outputs", ignore_errors=True)
        code = finish(at(peace.values, again), log, few_graphs)
        told = (
            [f"exit code {code}: {log.read_text()[-500:]}"] if code else differences(again / "outputs" / "vae", peace)
        )
        found += [f"{operation}, folder {'lost' if folder_lost else 'kept'}: {line}" for line in told]
        shutil.rmtree(again)
    shutil.rmtree(place)
    return found


def test_killed_at_a_sample_of_its_file_operations_a_mirrored_run_comes_to_the_same(
    tmp_path: Path, peace: Peace
) -> None:
    chosen = peace.operations[STRIDE // 2 :: STRIDE]
    lost = [(index % 2 == 0,) for index in range(len(chosen))]
    found = [replay(each, peace, tmp_path, lost=way) for each, way in zip(chosen, lost, strict=True)]
    assert len(chosen) >= 4
    assert not any(found), found


def test_a_fresh_run_of_the_same_name_leaves_the_copy_of_the_one_before(tmp_path: Path, peace: Peace) -> None:
    values, log = at(peace.values, tmp_path), tmp_path / "log"
    shutil.copytree(peace.run.parents[1] / "volume", tmp_path / "volume")
    (copied,) = (tmp_path / "volume").iterdir()
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    values["seed"] = 1
    assert finish(values, log, few_graphs) == 2
    assert "another run of this name (complete):\n    seed: 0 there, 1 asked" in log.read_text()
    values["resume"] = "fresh"
    assert finish(values, log, few_graphs) == 0, log.read_text()
    assert len(list((tmp_path / "volume").glob("vae-*/weights/final.*"))) == 2
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_killed_at_every_file_operation_a_mirrored_run_comes_to_the_same(
    tmp_path: Path, peace: Peace, share: int
) -> None:
    found = []
    for before, each in pairwise([*peace.operations[:1], *peace.operations]):
        if each.number % SHARES == share:  # what comes from the mirror depends on the mirror alone
            touched = any("/volume" in operation.path.as_posix() for operation in (before, each))
            found += replay(each, peace, tmp_path, lost=(False, True) if touched else (False,))
    assert not any(found), found


@pytest.mark.slow
def test_killed_at_every_file_operation_of_a_restoration_a_run_comes_to_the_same(tmp_path: Path, peace: Peace) -> None:
    found = [replay(each, peace, tmp_path, lost=(False,), begun=peace.behind) for each in peace.restoring]
    assert not any(found), found
