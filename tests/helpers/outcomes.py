"""What a run came to, compared."""

from pathlib import Path

from fluxflow_exp.run.diff import differences
from fluxflow_exp.run.metric_log import read_rows


def published(run: Path) -> dict[str, bytes]:
    """The files of weights."""
    return {p.name: p.read_bytes() for p in sorted((run / "weights").glob("*.safetensors"))}


def assert_same(first: Path, second: Path) -> None:
    """Interruptions have changed nothing of a pipeline of three steps, the bytes of its weights included."""
    found, counts = differences(first, second)
    # How many saves there were follows from checkpoint.every_updates.
    assert [line for line in found if not line.endswith(": saves differs")] == []
    assert all(counts.values()), counts
    mine, theirs = published(first), published(second)
    assert len(mine) == 7
    assert [name for name in mine if mine[name] != theirs[name]] == []


def losses(run: Path) -> list[float]:
    """All that was logged but what pictures show, in order."""
    return [
        value
        for path in sorted((run / "graph").glob("*.jsonl"))
        for row in read_rows(path)
        for name, value in sorted(row["metrics"].items())
        if not name.startswith("prompt_accuracy")
    ]
