"""Signals set a flag, and leave the handlers of others as they were."""

import errno
import os
import signal
from collections.abc import Iterator

import pytest

from fluxflow_exp.machine.preemption import SIGNALS, Interrupted, StopRequest


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_sets_a_flag_and_the_handlers_before_come_back(signum: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with StopRequest() as stop:
        assert stop.signum is None
        os.kill(os.getpid(), signum)
        assert stop.signum == signum
    assert {each: signal.getsignal(each) for each in SIGNALS} == before
    assert f"{signal.Signals(signum).name}: stopping before the next update\n" in capfd.readouterr().out


def test_a_save_is_spoken_of_where_an_update_is_made(capfd: pytest.CaptureFixture[str]) -> None:
    with StopRequest() as stop:
        stop.updating = True
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().out == "SIGTERM: saving at the end of this update, then stopping\n"


@pytest.mark.parametrize("order", [(signal.SIGUSR2, signal.SIGTERM), (signal.SIGTERM, signal.SIGUSR2)])
def test_the_warning_before_a_time_out_counts_whatever_follows_or_came_before(order: tuple[int, int]) -> None:
    with StopRequest() as stop:
        for signum in order:
            os.kill(os.getpid(), signum)
        assert stop.signum == signal.SIGUSR2


def test_a_second_ctrl_c_stops_at_once() -> None:
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_schedulers_handler_is_called_after_the_save_and_not_before() -> None:
    called: list[int] = []
    previous = signal.signal(signal.SIGUSR2, lambda signum, frame: called.append(signum))
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert called == []
            assert stop.hand_back(signal.SIGUSR2)
            assert called == [signal.SIGUSR2]
            assert not stop.hand_back(signal.SIGTERM)
            assert not stop.hand_back(signal.SIGUSR1)  # nobody had a handler for it
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_a_forked_data_worker_does_not_answer_for_the_run() -> None:
    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0 if stop.signum is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert stop.signum is None


def test_a_signal_while_nothing_is_done_ends_the_wait() -> None:
    with StopRequest() as stop:

        def parts() -> Iterator[int]:
            yield 1
            os.kill(os.getpid(), signal.SIGTERM)
            yield 2

        passed = stop.while_idle(parts())
        assert next(passed) == 1
        with pytest.raises(Interrupted, match="SIGTERM"):
            next(passed)
        stop.alone = False  # the other ranks wait for this one
        assert list(stop.while_idle(parts())) == [1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_ctrl_c_that_was_swallowed_is_heard_later() -> None:
    class Deaf:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        Deaf()
        with pytest.raises(KeyboardInterrupt), stop.idle():
            pass


def test_nohup_is_respected_and_a_terminal_that_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, previous)

    def gone(descriptor: int, said: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", gone)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signum == signal.SIGHUP


@pytest.mark.parametrize(("alone", "finishing"), [(True, False), (True, True), (False, False)])
def test_a_signal_just_before_a_wait_ends_it_too(alone: bool, finishing: bool) -> None:
    with StopRequest() as stop:
        stop.alone = alone
        parts = stop.while_idle(iter("ab"), finishing=finishing)
        assert next(parts) == "a"
        os.kill(os.getpid(), signal.SIGTERM)
        if alone and not finishing:
            with pytest.raises(Interrupted):
                next(parts)
        else:  # other ranks have yet to be told
            assert next(parts) == "b"
