"""The runs that a path on a command line means: a run's folder, what stands in one, or a folder of several."""

import os
from collections.abc import Iterable
from pathlib import Path

from fluxflow_exp import files
from fluxflow_exp.errors import UserError, did_you_mean
from fluxflow_exp.run import holders
from fluxflow_exp.run.folder import RunFolder

EXAMPLE = "name a run folder, e.g. outputs/quickstart"
SHOWN = 4  # runs that a message lists
WRITTEN = "is written when the last step of a run ends"
UNENDED = f"it {WRITTEN}: name a run that has ended, or a published file"


def one(path: Path) -> RunFolder:
    """The run whose folder `path` is or stands in, or the only one below it. UserError: there is none, or several."""
    found = _of(path)
    if len(found) > 1:
        names = ", ".join(str(run.path) for run in found[:SHOWN])
        raise UserError(f"{path} holds {len(found)} runs: name one of them: {names}{', …' * (len(found) > SHOWN)}")
    if not found:
        raise UserError(_nothing(path, EXAMPLE))
    return found[0]


def several(paths: Iterable[Path], *, aside: bool = False) -> list[RunFolder]:
    """The runs at, around or below each of `paths`, each once; with `aside` also those below that were moved aside.

    UserError: of some of `paths` there is none.
    """
    found, problems = dict[Path, RunFolder](), []
    for path in paths:
        runs = _of(path, aside=aside)
        found |= {run.path.resolve(): run for run in runs if run.path.resolve() not in found}
        if not runs:
            problems.append(_nothing(path, f"{EXAMPLE}, or a folder of runs (a sweep)"))
    if problems:
        raise UserError(*problems)
    return list(found.values())


def weights(path: Path, *, parts: Iterable[str] = ()) -> Path:
    """What `path` means where weights are wanted: a file, or the run's folder, or a weights/ that stands alone.

    UserError: it is none of these; files that hold `parts` are proposed for one that is not there.
    """
    if path.suffix == ".safetensors" and not path.exists() and path.parent.name == "weights" and path.parent.is_dir():
        unended = f", which {WRITTEN}" if path.name == holders.FINAL else ""
        raise UserError(f"there is no file {path}{unended}{holders.instead(path.parent, parts)}")
    run = around(path)
    if path.is_file():
        if run and path.suffix != ".safetensors":
            raise UserError(f"{path} is no .safetensors file: name {run.path}, or a file of {run.weights}")
        return path
    if not run and path.is_dir() and files.weights_folder(path).is_dir():
        return path
    return one(path).path


def final(path: Path) -> Path:
    """The file of a whole model that `path` means (see `weights`). UserError: there is none."""
    run = around(path.parent) if path.suffix == ".safetensors" and not path.exists() else None
    if run:  # whose other files are no whole models: none of them is proposed
        whole = run.weights / holders.FINAL
        if not whole.is_file():
            raise UserError(f"there is no {whole}: {UNENDED}")
        able = whole in holders.holding(run.weights, ["flow_processor"])
        way = f": name {whole}" if able else f", and {whole} has no flow: name a run with a flow step"
        raise UserError(f"there is no file {path}{way}")
    found = weights(path)
    if found.is_file():
        return found
    file = files.weights_folder(found) / "final.safetensors"
    if not file.is_file():
        raise UserError(f"{found} holds no weights/final.safetensors: {UNENDED}")
    return file


def around(path: Path) -> RunFolder | None:
    """The run whose folder `path` is, or which the file or folder `path` stands in."""
    if not path.exists():
        return None
    given = [] if ".." in path.parts else [path, *path.parents]  # as the user wrote them
    whole = Path(os.path.abspath(path))
    return next((run for run in map(RunFolder, [*given, whole, *whole.parents]) if _is_run(run)), None)


def below(folder: Path, *, aside: bool = False) -> list[RunFolder]:
    """The run folders at or below `folder`, also those whose record is gone; half restored ones are left out, and, but
    with `aside`, those that were moved aside."""
    names = ("run.json", "config.yaml") if folder.is_dir() else ()
    paths = sorted({path.parent for name in names for path in folder.rglob(name)})
    paths = [path for path in paths if not path.name.startswith("tmp-") and (aside or ".old-" not in path.name)]
    return [run for run in map(RunFolder, paths) if _is_run(run)]


def _of(path: Path, *, aside: bool = False) -> list[RunFolder]:
    run = around(path)
    return [run] if run else below(path, aside=aside)


def _is_run(folder: RunFolder) -> bool:
    return folder.exists() or folder.lacks_record()


def _nothing(path: Path, wanted: str) -> str:
    """Say why no run is found by `path`: the first part of it that is not there, or what is `wanted`."""
    absent = _absent(path)
    if absent is None:
        return f"there is no run in {path}: {wanted}"
    return f"there is no file or folder {absent}{nearest(path) or f': {wanted}'}"


def nearest(path: Path, *, suffix: str | None = None) -> str:
    """ "; did you mean …?" with what stands in the place of the first part of `path` that is not there, or "".

    With `suffix` that is a folder, or a file with it.
    """
    absent = _absent(path)
    there = files.matching(absent.parent, "*") if absent else []
    fitting = [each.name for each in there if suffix in (None, each.suffix) or each.is_dir()]
    return did_you_mean(absent.name, fitting) if absent else ""


def _absent(path: Path) -> Path | None:
    """The first part of `path` that is not there."""
    return next((each for each in [*reversed(path.parents), path] if not each.exists()), None)
