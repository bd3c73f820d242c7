"""What a run came to, compared."""

from pathlib import Path

from fluxflow_exp.run.diff import differences


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
