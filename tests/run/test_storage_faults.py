"""A disk that is full, broken or read-only, at any file operation of a run: one clear error, and nothing is lost."""

import errno
import shutil
from itertools import groupby
from pathlib import Path

import pytest
from PIL import Image

from fluxflow_exp.run.diff import differences
from tests.conftest import toy
from tests.helpers.children import entry_point, finish
from tests.helpers.file_faults import FileFault, needs_compiler, operations

pytestmark = needs_compiler
PARTS = 6  # of the whole list, so that several processes may share it
LAST = 5  # operations
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
SHORT = (
    "stage.steps.vae.max_updates=2",
    "checkpoint.every_updates=1",
    "samples.count=1",
    "evaluation.images=2",
    "health.images=null",
)


def run(root: Path, log: Path, *faults: FileFault) -> int:
    """Two updates of a VAE below `root`, mirrored there as well; the exit code."""
    return finish(toy(root, *SHORT, f"checkpoint.mirror={root}/volume", stage="vae"), log, *faults)


def fails_clearly(root: Path, log: Path, fault: FileFault) -> list[str]:
    """What is wrong with how the run ends by `fault`."""
    code, text = run(root, log, fault), log.read_text()
    told = [line for line in text.splitlines() if line.startswith("error:")]
    clear = len(told) == 1 and (
        (told[0].startswith("error: a file could not be ") and "same command" in told[0])
        or told[0] == f"error: nothing can be written in {root / 'vae'} or beside it: choose another output_root=…"
    )
    return [] if code == 2 and clear and "Traceback" not in text else [f"{fault}: exit code {code}\n{text}"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    assert run(root, root / "log") == 0, (root / "log").read_text()
    return root


def test_one_clear_error_after_another_and_the_same_bytes_in_the_end(tmp_path: Path, undisturbed: Path) -> None:
    root, log = tmp_path / "run", tmp_path / "log"
    for number, (error, at) in enumerate(zip(ERRORS * 2, (2, 47, 139, 330, 60, 120), strict=True)):
        assert fails_clearly(root, log, FileFault((root,), at=at, error=error, half=bool(number % 2))) == []
        log.unlink()
    assert run(root, log) == 0, log.read_text()
    assert differences(undisturbed / "vae", root / "vae")[0] == []


def test_a_start_that_left_temporary_files_alone_is_begun_again(tmp_path: Path) -> None:
    root, log = tmp_path / "run", tmp_path / "log"
    count = FileFault((root / "vae",), log=tmp_path / "operations")
    assert run(root, log, count) == 0, log.read_text()
    at = next(each.number for each in operations(tmp_path / "operations") if each.path.name == "run.json")
    shutil.rmtree(root)
    assert fails_clearly(root, tmp_path / "failed", FileFault((root / "vae",), at=at, error=errno.EIO)) == []
    assert list((root / "vae").glob("tmp-*"))
    assert run(root, log) == 0, log.read_text()


COMMANDS = {
    "fluxflow_exp.report": ["{run}", "--output", "{out}/report.html"],
    "fluxflow_exp.plot": ["{run}", "--output", "{out}"],
    "fluxflow_exp.evaluate": ["{run}", "--metrics", "psnr", "--images", "2", "--json", "{out}/numbers.json"],
    "fluxflow_exp.data.pack": ["{images}", "{images}/captions.tsv", "{out}/shards"],
}


@pytest.mark.parametrize(
    ("module", "error", "at"), [(m, ERRORS[i % 3], (2, 4, 1)[i % 3]) for i, m in enumerate(COMMANDS)]
)
def test_other_commands_end_in_one_line(tmp_path: Path, undisturbed: Path, module: str, error: int, at: int) -> None:
    images, out, log = tmp_path / "images", tmp_path / "out", tmp_path / "log"
    images.mkdir()
    Image.new("RGB", (4, 4)).save(images / "a.png")
    (images / "captions.tsv").write_text("a.png\ta caption\n")
    places = {"run": undisturbed / "vae", "images": images, "out": out}
    words = [word.format(**places) for word in COMMANDS[module]]
    assert entry_point(module, words, log, FileFault((out,), at=at, error=error)) == 2
    told = [line for line in log.read_text().splitlines() if line.startswith("error: a file could not be ")]
    assert len(told) == 1
    assert str(out) in told[0]
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("reads", [False, True], ids=["writes", "reads"])
def test_at_every_operation(tmp_path: Path, undisturbed: Path, part: int, reads: bool) -> None:
    """Each disk at each operation, of the writes into one file at the first and the last; and one of them repaired."""
    log, counted = tmp_path / "log", tmp_path / "operations"
    assert run(tmp_path / "whole", log, FileFault((tmp_path / "whole",), log=counted, reads=reads)) == 0
    together = [list(each) for _, each in groupby(operations(counted), lambda each: (each.kind, each.path))]
    chosen = [each for same in together for each in sorted({same[0], same[-1]})]
    wrong = []
    for each in chosen[part :: PARTS * (7 if reads else 1)]:
        for error in (errno.EIO,) if reads else ERRORS:
            root = tmp_path / f"{each.number}-{error}"
            log.unlink()
            failed = fails_clearly(root, log, FileFault((root,), at=each.number, error=error, half=True, reads=reads))
            # Runs differ by an operation or two, so that the last of this one may not come in that one.
            if each.number <= chosen[-1].number - LAST or not (root / "vae" / "summary.json").exists():
                wrong += failed
            if reads or error == ERRORS[each.number % 3]:
                log.unlink()
                code = run(root, log)
                found = differences(undisturbed / "vae", root / "vae")[0] if code == 0 else [log.read_text()]
                wrong += [f"after {each}, {errno.errorcode[error]}: {line}" for line in found]
            shutil.rmtree(root, ignore_errors=True)
    assert wrong == []
