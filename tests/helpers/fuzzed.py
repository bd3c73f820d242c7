"""Files as a stranger, a torn disk or a careless editor may leave them, and what a command makes of them.

Everything is drawn from a seed. A command runs in a forked process under an audit hook: a traceback, a signal, too much
time or memory, and whatever reaches out of the package are told apart from results and from clear errors.
"""

import copy
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, GIB = 60, 6  # that a command may take
FETCH = {"_target_": "fluxflow_exp.models.flow.torch.hub.load_state_dict_from_url", "url": "http://127.0.0.1:9/x.pt"}
STREAM = {"_target_": "fluxflow_exp.data.webdataset.WebDataset", "urls": "pipe:touch harm", "epoch_size": 8}
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 10**30, -0.5, 1e300, float("nan"), float("inf"), "", "x", "x" * 5000, "1e3",
    "???", "\0", "\ud800", "é\u2028", "../../secret", "/dev/zero", "<script>alert(1)</script>", "${oc.env:HOME}",
    "${seed}", [], [[]], [None], [1, "a"], {}, {"a": {}}, {"": 1}, {"_target_": None}, {"_target_": "os.system"},
    {"_target_": "tests.unused_canary.Harm"}, {"_target_": "fluxflow_exp.losses.kl.KL"}, FETCH, STREAM,
    "pipe:touch harm", "http://127.0.0.1:9/x.tar", "fluxflow_exp.models.huggingface.HuggingFaceTextEncoder",
    "someone/encoder", "fluxflow_exp.data.webdataset.WebDataset", "os.system", ["_args_"],
]  # fmt: skip
KEYS = [
    "_target_",
    "_partial_",
    "_args_",
    "_recursive_",
    "_convert_",
    "urls",
    "token_env",
    "name",
    "x",
    "../x",
    "",
    "<b>",
]
REACHING = ("socket.connect", "socket.getaddrinfo", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
OWN_COMMANDS = ("git", "squeue")  # what is asked about code and jobs
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Outcome:
    kind: str  # result, refused; or what must not be: traceback, silent, killed, reached out
    said: str

    @property
    def good(self) -> bool:
        return self.kind in ("result", "refused")


def mutated(value: Any, rng: random.Random) -> Any:
    """`value` with one to four changes of its structure."""
    made = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = _places(made)
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        action = rng.choice(("replace", "replace", "replace", "delete", "insert", "swap", "rename"))
        if action == "replace":
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        elif action == "delete":
            del holder[key]
        elif action == "swap":
            other, name = rng.choice(places)
            holder[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(holder[key])
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(rng.choice(VALUES)))
        else:
            new = rng.choice(KEYS)
            holder[new] = holder.pop(key) if action == "rename" else copy.deepcopy(rng.choice(VALUES))
    return made


def torn(data: bytes, rng: random.Random) -> bytes:
    """`data` with bytes lost, changed or put in."""
    at = rng.randrange(len(data) + 1)
    action = rng.choice(("cut", "flip", "insert", "remove", "empty"))
    if action == "cut":
        return data[:at]
    if action == "flip" and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if action == "insert":
        return (
            data[:at]
            + rng.choice((b"\0", b"\xff\xfe", b"[" * 2000, b"{", b"\n", b"&a *a ", rng.randbytes(8)))
            + data[at:]
        )
    if action == "remove":
        return data[:at] + data[at + rng.randrange(1, 40) :]
    return b""


def outcome(command: Callable[[], int | None], folder: Path) -> Outcome:
    """What `command` comes to in a process of its own with `folder` as its working folder."""
    log = folder / "said.txt"
    child = os.fork()
    if child == 0:
        _run(command, folder, log)
    _, status = os.waitpid(child, 0)
    said = log.read_text(encoding="utf-8", errors="replace")
    reached = [line for line in said.splitlines() if line.startswith("REACHED OUT")]
    if reached or (folder / "harm").exists():
        return Outcome("reached out", reached[0] if reached else "a command was run")
    if os.WIFSIGNALED(status):
        return Outcome("killed", f"signal {os.WTERMSIG(status)}\n{said[-2000:]}")
    code = os.WEXITSTATUS(status)
    if "Traceback (most recent call last)" in said or code not in (0, 1, 2):
        return Outcome("traceback", said[-4000:])
    if code == 2 and "error" not in said:
        return Outcome("silent", said[-2000:])
    return Outcome("refused" if code == 2 else "result", said[-2000:])


def _run(command: Callable[[], int | None], folder: Path, log: Path) -> None:
    """The child: never returns."""
    opened = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(opened, descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, open(descriptor, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
    code = 3
    try:
        os.chdir(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + GIB * 2**30,) * 2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        sys.addaudithook(_hook(folder))
        code = command() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 3
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _hook(folder: Path) -> Callable[[str, tuple[Any, ...]], None]:
    """Tells of what reaches out of the package: sockets, commands, modules that a file names, files elsewhere."""
    home = str(folder.resolve().parent)
    allowed = (home, "/dev/null", "/dev/shm", "/proc/self")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        found = ""
        if event in REACHING:
            found = f"{event} {arguments!r:.200}"
        elif event == "subprocess.Popen" and os.path.basename(str(arguments[0])) not in OWN_COMMANDS:
            found = f"{event} {arguments[:2]!r:.200}"
        elif event == "import" and str(arguments[0]).startswith("tests.unused_canary"):
            found = f"import {arguments[0]}"
        elif (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & WRITES
            and isinstance(arguments[0], str)
        ):
            path = os.path.realpath(arguments[0])
            if not path.startswith(allowed) and "__pycache__" not in path and "tmp" not in path.split("/")[1:2]:
                found = f"open {path} for writing"
        if found:
            os.write(2, f"\nREACHED OUT: {found}\n".encode())

    return hook


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in `value`."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        items = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, child in items:
            found.append((holder, key))
            waiting.append(child)
    return found


def tally(outcomes: list[tuple[str, Outcome]]) -> str:
    """Counts by kind of input and outcome."""
    counts: dict[tuple[str, str], int] = {}
    for name, each in outcomes:
        counts[name, each.kind] = counts.get((name, each.kind), 0) + 1
    return "\n".join(f"{name:<28} {kind:<12} {n:6}" for (name, kind), n in sorted(counts.items()))
