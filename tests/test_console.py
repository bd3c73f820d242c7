"""What long work says where there is no terminal."""

import io

import pytest
from rich.console import Console as Terminal

from fluxflow_exp import console
from fluxflow_exp.console import Console
from fluxflow_exp.run import failures
from fluxflow_exp.step_length import Length

METRICS = {"vae": 0.25, "kl": 12.5, "g": -0.125, "d": 1.5, "lpips": 0.0625, "l1": 3.0}
LOSSES = "VAE: 0.2500 | KL: 12.5000 | G: -0.1250 | D: 1.5000 | LPIPS: 0.0625"


LENGTH = Length(1000, 100, 8, 8)


def opened(said: Console) -> Console:
    said.open_step("vae_gan_spade", LENGTH, index=2, steps=3, description="")
    return said


@pytest.mark.parametrize(
    ("updates", "epochs"), [(150_000, "1500 epochs"), (1000, "10 epochs"), (100, "1 epoch"), (66, "0.66 epoch")]
)
def test_a_step_says_how_long_it_is(capsys: pytest.CaptureFixture[str], updates: int, epochs: str) -> None:
    Console().open_step("vae", Length(updates, 100, 8, 8), index=1, steps=1, description="")
    assert f"\nDuration: {epochs}, {updates} updates\n" in capsys.readouterr().out


def test_work_off_a_terminal_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    assert list(Console().track(range(4), "Writing", total=4)) == [0, 1, 2, 3]
    assert capsys.readouterr().out.splitlines() == ["Writing …", *(f"Writing: {done}%" for done in (25, 50, 75, 100))]


def test_short_work_off_a_terminal_takes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(Console().track("ab", "Writing", total=2)) == ["a", "b"]
    assert capsys.readouterr().out.splitlines() == ["Writing …"]


def test_a_fresh_run_is_not_told_to_begin_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    monkeypatch.setattr("sys.argv", ["fluxflow-train", "stage=vae", "resume=fresh"])
    console.fail(["free space, and the same command continues"])
    assert capsys.readouterr().err == "error: free space, and the same command without resume=fresh continues\n"
    told = "The same command without resume=fresh continues it:\n  python -m fluxflow_exp stage=vae"
    assert failures.how_to_continue() == told


def test_a_line_holds_place_losses_rate_and_from_the_second_on_the_time_that_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = opened(Console())
    said.progress(LENGTH, 100, METRICS, 61.0, 0.61, left=481.0)
    said.progress(LENGTH, 210, METRICS, 3700.0, 0.05, left=39.5)
    first, second = capsys.readouterr().out.splitlines()[-2:]
    where = "Step vae_gan_spade (2/3)"
    assert first == f"[00:01:01] {where} | Epoch 1/10 | Batch 100/100 | {LOSSES} | 0.61s/batch"
    assert second == f"[01:01:40] {where} | Epoch 3/10 | Batch 10/100 | {LOSSES} | 0.050s/batch | ETA 00:00:39"


def test_eighty_columns_cut_neither_losses_nor_rate_off_the_bar() -> None:
    shown = io.StringIO()
    said = Console()
    said._terminal = Terminal(file=shown, force_terminal=True, width=80, color_system=None)
    opened(said)
    for update in (100, 210):
        said.progress(LENGTH, update, METRICS, 61.0, 0.61, left=481.0)
    said.close_step()
    for word in ("vae_gan_spade (2/3) | Epoch 3/10 | Batch 10/100", LOSSES, "0.61s/batch", "ETA 00:08:01"):
        assert word in shown.getvalue(), word
