"""Commands side by side, each with GPUs of its own; toys of the standard library stand for sweeps."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.study.children import ANY, Child, run

SEES = "import os, sys, time; print(os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ['WANDB_RUN_GROUP'])"


def toy(name: str, code: str) -> Child:
    return Child(name, ["python", "-S", "-c", code])


def test_as_many_run_at_a_time_as_there_are_places_and_none_shares_one(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    times = (
        "import os, time; gpu = os.environ['CUDA_VISIBLE_DEVICES']; begin = time.time()\n"
        f"os.chdir({str(tmp_path)!r}); open(f'begun/{{gpu}}', 'w')\n"
        "while len(os.listdir('begun')) < 2 and time.time() < begin + 30: time.sleep(0.01)\n"
        "open(f'{gpu}-{begin}', 'w').write(str(time.time()))"
    )
    assert run([toy(f"arm {n}", times) for n in range(4)], places=["4", "6,7"], group="g") == [0, 0, 0, 0]
    spans: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(tmp_path.glob("*-*")):
        gpu, _, begin = path.name.partition("-")
        spans.setdefault(gpu, []).append((float(begin), float(path.read_text())))
    assert {gpu: len(each) for gpu, each in spans.items()} == {"4": 2, "6,7": 2}
    assert all(first[1] <= second[0] for first, second in spans.values())
    assert spans["4"][0][0] < spans["6,7"][0][1]
    assert spans["6,7"][0][0] < spans["4"][0][1]


def test_several_say_who_they_are_and_one_alone_sees_all_gpus(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run([toy("silu seed=0", SEES), toy("silu seed=1", SEES)], places=["0", "1"], group="mine")
    said = capfd.readouterr().out
    assert "silu seed=0: 0 mine\n" in said
    assert "silu seed=1: 1 mine\n" in said
    assert "$ CUDA_VISIBLE_DEVICES=1 python -S -c" in said
    run([toy("silu", SEES)], places=[ANY], group="mine")
    assert "\nNone mine\n" in capfd.readouterr().out


def test_one_that_could_not_begin_is_the_last_and_others_end_in_peace(tmp_path: Path) -> None:
    done = tmp_path / "done"
    commands = [toy("a", "raise SystemExit(2)"), toy("b", f"import time; time.sleep(0.5); open({str(done)!r}, 'w')")]
    assert run([*commands, toy("c", "1/0")], places=["0", "1"], group="g") == [2, 0]
    assert done.exists()


def test_one_that_is_killed_from_outside_ends_the_study() -> None:
    killed = toy("a", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(UserError, match=r"ended from outside \(exit code -9\). The same command continues it"):
        run([killed, toy("b", "raise SystemExit(3)")], places=[ANY], group="g")


def test_a_signal_reaches_all_that_run_and_no_other_begins(tmp_path: Path) -> None:
    saves = (
        "import pathlib, signal, sys, time; me = pathlib.Path({!r}); "
        "signal.signal(signal.SIGTERM, lambda *_: (me.write_text('saved'), sys.exit(143))); me.touch(); time.sleep(60)"
    )
    paths = [tmp_path / name for name in "abc"]

    def ask() -> None:
        while not all(path.exists() for path in paths[:2]):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    with pytest.raises(SystemExit) as told:
        run([toy(path.name, saves.format(str(path))) for path in paths], places=["0", "1"], group="g")
    assert told.value.code == 128 + signal.SIGTERM
    assert [path.exists() and path.read_text() for path in paths] == ["saved", "saved", False]


def test_one_that_is_to_outlive_its_terminal_does() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGHUP)).start()
        assert run([toy("a", "import time; time.sleep(0.8)"), toy("b", "")], places=[ANY], group="g") == [0, 0]
    finally:
        signal.signal(signal.SIGHUP, previous)
