"""One process at a time in a run folder: a lock beside it, `<parent>/.<name>.lock`, and one inside, `.lock`.

The one beside it stays where it is when the folder is moved or deleted: who waits for it waits for the name, and never
gets a folder that has gone elsewhere. The one inside serves where the folder alone is shared, as one that is mounted
into several containers, and keeps versions apart that know no other.

Both are flock's. Record locks (lockf) are lost as soon as their process closes any descriptor of the file, and looking
whether a run goes on is enough for that. On NFS the kernel makes byte-range locks on the server of either kind. A
forked child closes its copy of the descriptor first of all: a data loading process that outlives its run does not keep
the folder.
"""

import errno
import fcntl
import os
import time
from pathlib import Path

from filelock import FileLock, Timeout

from fluxflow_exp.errors import UserError

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
LOOK_SECONDS = 0.1  # between two tries
INSIDE_SECONDS = 2.0  # who only looks holds a lock for a moment


class FolderLock:
    """Hold a run folder until `release`, or until this object is gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        here = Path(os.path.abspath(folder))  # "." has a name, too
        self.beside, self.inside = here.parent / f".{here.name}.lock", folder / ".lock"
        self._locks: dict[Path, FileLock] = {}

    @property
    def held(self) -> bool:
        """Whether this process holds the folder."""
        return any(lock.is_locked for lock in self._locks.values())

    def acquire(self, *, seconds: float = 0.0) -> bool:
        """Hold the folder, after `seconds` of trying at most. False: another process has it.

        Where nothing can be written there is nothing to hold. UserError: the file system has no locks.
        """
        until = time.monotonic() + seconds
        while not self._try():
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def hold_inside(self) -> None:
        """Take the lock inside, too, once there is a folder; for the holder of the other one.

        UserError: another process has it, which came by another name of the folder, or knows only this lock.
        """
        until = time.monotonic() + INSIDE_SECONDS
        while self.held and self.folder.is_dir() and not self._take(self.inside):
            if time.monotonic() > until:
                raise UserError(taken(self.folder))
            time.sleep(LOOK_SECONDS)

    def release_inside(self) -> None:
        """Before the folder is moved: what is inside goes with it."""
        self._close(self.inside)

    def release(self) -> None:
        """Let another process have the folder."""
        for path in list(self._locks):
            self._close(path)

    def held_elsewhere(self) -> bool:
        """Whether another process holds the folder. Nothing is written for that."""
        return not self.held and any(_is_locked(path) for path in (self.beside, self.inside))

    def _try(self) -> bool:
        """Take what there is to take. False: some of it is held, and then none is kept."""
        paths = [self.beside, *([self.inside] if self.inside.exists() else [])]
        if all(self._take(path) for path in paths):
            return True
        self.release()
        return False

    def _take(self, path: Path) -> bool:
        """False: another process holds it. What cannot be written is passed over: a folder in one stays where it is."""
        if path in self._locks and self._locks[path].is_locked:
            return True
        lock = FileLock(path, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            if error.filename is None:  # flock's own; those of opening the file name it
                raise UserError(
                    f"{path.parent} is on a file system without locks ({error.strerror}), where two processes could "
                    "train in one folder: set output_root=… to another one, or have it mounted with locks (Lustre: "
                    "-o flock)"
                ) from error
            if error.errno not in READ_ONLY:
                raise
            if error.strerror != os.strerror(error.errno):  # filelock does not trust its owner, who could replace it
                raise UserError(
                    f"{path} cannot be locked ({error.strerror}): delete it once no run goes on there, or choose "
                    "another name=…"
                ) from error
        else:
            self._locks[path] = lock
        return True

    def _close(self, path: Path) -> None:
        if path in self._locks:
            self._locks.pop(path).release()


def taken(folder: Path) -> str:
    return f"another process is training in {folder}. Wait for it, stop it, or choose another name=…"


def _is_locked(path: Path) -> bool:
    """A shared lock needs no right to write, and is refused where there is an exclusive one."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False  # not there, or not to be read: then by no process of this user's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # without locks
        pass
    finally:
        os.close(descriptor)
    return False
