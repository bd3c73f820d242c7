"""A count of what each step has logged by its last save, kept in run.json: rows and pictures lost later are missed."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.run import metric_log
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows

# `<step>_<index>_<when>_<hash><row>.webp`, or `_grid` for the hash: see sample_files.py
PICTURE = r"_\d{3}_(?P<when>\d{3,}(_\d{5,})?)_([0-9a-f]{6}|grid).*\.webp"
SHOWN = 5


def keep(folder: RunFolder, step: str, update: int) -> None:
    """Keep what `step` has logged by the save of `update`: no less than it had by an earlier one."""
    record = folder.read_record()
    before = record.get("logged", {}).get(step, {"rows": 0, "pictures": {}})
    drawn = _pictures(folder, step)
    for when, count in before["pictures"].items():
        drawn[when] = max(drawn[when], count)
    rows = max(files.count_lines(folder.metrics(step)), before["rows"])
    _write(folder, record, step, {"update": update, "rows": rows, "pictures": dict(sorted(drawn.items()))})


def rewind(folder: RunFolder, step: str, update: int) -> None:
    """A step goes on from `update`, before what it may have logged later is taken away."""
    record = folder.read_record() if folder.exists() else {}
    tally = record.get("logged", {}).get(step)
    if tally and tally["update"] > update:
        lost = tally["rows"] - _rows(folder, step, tally["update"])
        rows = _rows(folder, step, update) + max(lost, 0)
        _write(folder, record, step, {**tally, "update": update, "rows": rows})


def missing_rows(folder: RunFolder, record: dict[str, Any]) -> list[str]:
    """Rows that steps had logged by their last saves and that are not there any more, one line a step."""
    found = []
    for step, tally in record.get("logged", {}).items():  # runs that began before there were tallies have none
        try:
            rows = _rows(folder, step, tally["update"])
        except UserError as error:
            found.append(str(error))
            continue
        if rows < tally["rows"]:
            name = folder.metrics(step).name
            found.append(f"graph/{name} has {rows} of the {tally['rows']} rows up to update {tally['update']}")
    return found


def check_rows(folder: RunFolder, record: dict[str, Any], *, resume: str) -> list[str]:
    """Enter rows that are gone into `record` where `resume` asks to go on without them; return what to say of it.

    UserError: it does not.
    """
    lost = missing_rows(folder, record)
    if not lost:
        return []
    if resume != "incomplete":
        raise UserError(
            f"{folder.path}: metric rows that this run had logged are lost:\n"
            + "".join(f"    {line}\n" for line in lost)
            + "  Bring the file back from a mirror or a backup, and the same command continues. To go on without them: "
            "resume=incomplete (weights and later rows are not touched by it; the run's record keeps what is lost)"
        )
    for step, tally in record["logged"].items():
        metric_log.salvage(folder.metrics(step))
        tally["rows"] = min(tally["rows"], _rows(folder, step, tally["update"]))
    record.setdefault("lost", []).extend(lost)
    return ["Going on without metric rows that are lost (resume=incomplete):", *lost]


def missing_pictures(folder: RunFolder, record: dict[str, Any]) -> list[str]:
    """Pictures that steps had drawn by their last saves and that are not there any more, one line a step."""
    found = []
    for step, tally in record.get("logged", {}).items():
        there = _pictures(folder, step)
        gone = {when: n - there[when] for when, n in tally["pictures"].items() if there[when] < n}
        if gone:
            when = ", ".join(sorted(gone)[:SHOWN]) + (" …" if len(gone) > SHOWN else "")
            found.append(f"samples/ lacks {counted(sum(gone.values()), 'picture')} of step {step} (of {when})")
    return found


def _write(folder: RunFolder, record: dict[str, Any], step: str, tally: dict[str, Any]) -> None:
    record.setdefault("logged", {})[step] = tally
    folder.write_record(record)


def _rows(folder: RunFolder, step: str, update: int) -> int:
    return sum(row["global_step"] <= update for row in read_rows(folder.metrics(step)))


def _pictures(folder: RunFolder, step: str) -> Counter[str]:
    """`when`, as names of pictures have it → how many pictures of the step there are of then."""
    name = re.compile(re.escape(step) + PICTURE)
    there = folder.samples.iterdir() if folder.samples.is_dir() else ()
    return Counter(match["when"] for path in there if (match := name.fullmatch(path.name)))
