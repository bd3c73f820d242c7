"""The end of a process of this program, in words, and which of several ranks says them."""

import os
import signal
import time

SHARED_MEMORY = "/dev/shm"  # where workers leave batches on Linux, whatever torch's sharing strategy is
LARGER = "start a container with --shm-size=8g or --ipc=host"
FEWER = "set hardware.num_workers lower"
CONTINUES = "The same command continues from the last save"

GRACE_SECONDS = 3.0  # for a rank that met the same error to say so itself


def first_here() -> bool:
    """Whether this process is the first, or the only one, that a launcher has started on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def let_first_tell() -> None:
    """Before ranks are joined each finds what is wrong by itself. Where the first one here does, torchrun ends the
    others within this time; what is wrong with one of the others alone, that one says then."""
    if not first_here():
        time.sleep(GRACE_SECONDS)


def told(who: str, code: int) -> str:
    """A sentence on `who`, whose exit code (negative: the signal) is not 0, and what to do."""
    if code > 0:
        return f"{who} ended with exit code {code}. {CONTINUES}"
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        more = f", as the kernel does when memory runs out: give the job more memory, or {FEWER}"
        return f"{who} was killed ({name}){more}. {CONTINUES}"
    if -code == signal.SIGBUS:
        return f"{who} was ended by {name}: {SHARED_MEMORY} is full; {LARGER}, or {FEWER}. {CONTINUES}"
    return f"{who} was ended by {name}. {CONTINUES}"
