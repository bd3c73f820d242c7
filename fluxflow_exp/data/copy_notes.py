"""Whether held-out pictures are trained on as well, byte for byte: what costs little to see before a run.

Near copies, and large sets, are for `python -m fluxflow_exp.data.check`, which reads every picture.
"""

import hashlib
from collections import defaultdict
from pathlib import Path

from fluxflow_exp.data.decoding import check_regular
from fluxflow_exp.data.images import Entry, Images

MOST_PICTURES = 50_000  # of a set that is looked at: each is asked for its size
MOST_READ = 1000  # files that are read, of those that have the size of one on the other side


def notes(trained: Images, held_out: Images) -> list[str]:
    """Return a line about held-out pictures of which a file with the same bytes is trained on, if there are some."""
    if len(trained.entries) + len(held_out.entries) > MOST_PICTURES:
        return []
    sizes = defaultdict[int, list[Entry]](list)
    for entry in trained.entries:
        if (size := _size(trained, entry)) is not None:
            sizes[size].append(entry)
    found, read = [], dict[str, str | None]()
    for entry in held_out.entries:
        alike = sizes.get(size, []) if (size := _size(held_out, entry)) is not None else []
        if len(read) + len(alike) >= MOST_READ:
            break
        for other in alike:
            digests = [_digest(held_out, entry, read), _digest(trained, other, read)]
            if digests[0] is not None and digests[0] == digests[1] and entry.id != other.id:
                found.append(f"{entry.id!r} is {other.id!r}")
                break
    if not found:
        return []
    return [
        f"at least {len(found)} held-out picture{'s are' if len(found) > 1 else ' is'} trained on under another name, "
        f"byte for byte ({found[0]}): held-out measures are too good by these. python -m fluxflow_exp.data.check with "
        "the words of this command and --fix clean.jsonl keeps copies on one side"
    ]


def _size(images: Images, entry: Entry) -> int | None:
    state = images.state_of(entry.place)
    return None if state is None else int(state[0])


def _digest(images: Images, entry: Entry, read: dict[str, str | None]) -> str | None:
    """Of a file's bytes, read once; None: it cannot be read."""
    if entry.id not in read:
        try:
            path = images.file_of(entry.place)
            assert isinstance(path, Path)
            check_regular(path)
            with path.open("rb") as file:
                read[entry.id] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            read[entry.id] = None
    return read[entry.id]
