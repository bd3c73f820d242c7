"""What is said of a process by its exit code, and by whom."""

import signal

import pytest

from fluxflow_exp.machine import exits
from fluxflow_exp.machine.exits import CONTINUES, GRACE_SECONDS, told


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (3, "rank 1 ended with exit code 3. "),
        (-signal.SIGKILL, "rank 1 was killed (SIGKILL), as the kernel does when memory runs out: give the job more"),
        (-signal.SIGBUS, "rank 1 was ended by SIGBUS: /dev/shm is full; start a container with --shm-size=8g"),
        (-signal.SIGSEGV, "rank 1 was ended by SIGSEGV. "),
    ],
)
def test_an_exit_code_in_words(code: int, said: str) -> None:
    found = told("rank 1", code)
    assert found.startswith(said)
    assert found.endswith(f". {CONTINUES}")


def test_a_later_rank_of_a_machine_waits_whether_the_first_one_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(exits.time, "sleep", waited.append)
    for local, first in ((None, True), ("0", True), ("1", False)):
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if local is not None:
            monkeypatch.setenv("LOCAL_RANK", local)
        assert exits.first_here() is first
        exits.let_first_tell()
    assert waited == [GRACE_SECONDS]
