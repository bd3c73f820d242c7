"""What is said of a process by its exit code."""

import signal

import pytest

from fluxflow_exp.machine.exits import CONTINUES, told


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
