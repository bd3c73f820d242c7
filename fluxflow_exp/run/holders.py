"""Which published files of a folder hold the parts that a command needs. Reads their metadata alone, without torch."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fluxflow_exp import files
from fluxflow_exp.models.facts import Facts, read_facts

FINAL = "final.safetensors"
NOT_AVERAGED = (".raw.safetensors", ".lora.safetensors")
SHOWN = 4  # files that a message lists


def holding(folder: Path, parts: Iterable[str] = ()) -> list[Path]:
    """Published files of averaged weights in `folder` that hold all of `parts`: the final one, then newest first."""
    facts: dict[Path, Facts] = {}
    for path in files.matching(folder, "*.safetensors"):
        if not path.name.endswith(NOT_AVERAGED):
            with suppress(ValueError, OSError):  # else it is not ours
                facts[path] = read_facts(path)
    able = [path for path, each in facts.items() if {*parts} <= {*each["trained"]}]
    return sorted(able, key=lambda path: (path.name != FINAL, -facts[path]["index"]))


def instead(folder: Path, parts: Iterable[str] = ()) -> str:
    """ ": name …" with the files in `folder` that would do, or that there are none."""
    able = holding(folder, parts)
    if not able:
        wanted = " and ".join(parts) or "published weights"
        return f", and no file in {folder} holds {wanted}"
    return f": name {' or '.join(map(str, able[:SHOWN]))}"
