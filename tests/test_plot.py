"""Graphs from metric rows, whatever is missing in them."""

import sys

import pytest
from matplotlib.axes import Axes
from PIL import Image

from fluxflow_exp.plot import PANEL, cli, draw
from fluxflow_exp.run.metric_log import MetricLog

pytestmark = pytest.mark.usefixtures("drawn")


def test_graphs_are_drawn_with_nulls_negative_losses_and_torn_lines(tmp_path):
    log = MetricLog(tmp_path / "training_metrics_vae_gan.jsonl")
    for update in (10, 20, 30):
        metrics = {"vae": 0.5 if update != 20 else float("nan"), "g": -0.3, "kl": 2.0}
        log.write("train", update=update, epoch=1, batch=update, metrics=metrics, learning_rates={"vae": 1e-3})
    log.write("held_out", update=30, epoch=1, batch=30, metrics={"val_psnr": 20.0})
    with log.path.open("a") as file:
        file.write('{"torn')
    written = draw(tmp_path)
    assert [path.name for path in written] == [
        "training_losses.png", "kl_loss.png", "learning_rates.png", "training_overview.png", "training_summary.txt",
    ]  # fmt: skip
    assert all(path.stat().st_size > 100 for path in written)
    summary = (tmp_path / "training_summary.txt").read_text()
    assert summary.splitlines()[1].split()[:3] == ["vae", "0.5", "0.5"]
    assert "val_psnr" in summary


def test_a_run_without_rows_has_no_picture(tmp_path):
    assert draw(tmp_path) == [tmp_path / "training_summary.txt"]


def test_what_a_run_has_nothing_of_has_neither_a_panel_nor_a_file(tmp_path):
    """A flow on cached latents, say: no autoencoder's loss, no divergence, no PSNR."""
    log = MetricLog(tmp_path / "training_metrics_flow.jsonl")
    for update in (10, 20):
        log.write("train", update=update, epoch=1, batch=update, metrics={"flow": 1.0}, learning_rates={"flow": 1e-3})
        log.write("held_out", update=update, epoch=1, batch=update, metrics={"val_flow": 1.1})
    draw(tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "training_losses.png", "learning_rates.png", "training_overview.png",
    }  # fmt: skip
    losses, overview = (Image.open(tmp_path / f"training_{name}.png").size for name in ("losses", "overview"))
    assert overview == (3 * losses[0], losses[1])


def test_health_is_drawn_where_it_was_looked_for(tmp_path):
    log = MetricLog(tmp_path / "training_metrics_vae.jsonl")
    for update in (10, 20):
        metrics = {"active_units": 3.0, "latent_std": 0.9, "latent_max": 4.0}
        log.write("health", update=update, epoch=1, batch=update, metrics=metrics)
    written = draw(tmp_path)
    assert written == [tmp_path / "health.png", tmp_path / "training_summary.txt"]
    width, height = Image.open(written[0]).size
    assert (width, height) == (2 * PANEL[0] * 110, PANEL[1] * 110)


def test_the_weight_of_the_divergence_is_drawn_beside_it(tmp_path, monkeypatch):
    log = MetricLog(tmp_path / "training_metrics_vae.jsonl")
    for update, beta in ((10, 0.0), (20, 5e-5), (30, 1e-4)):
        log.write("train", update=update, epoch=1, batch=update, metrics={"kl": 3.0 - update / 20, "kl_beta": beta})
    drawn = []
    plain = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda axes, *a, **k: (drawn.append((k.get("label"), a)), plain(axes, *a, **k))[1]
    )
    draw(tmp_path)
    assert ("β (right)", ([10, 20, 30], [0.0, 5e-5, 1e-4])) in drawn


def test_several_runs_are_laid_over_each_other(tmp_path, monkeypatch, capsys):
    for run, value in (("a", 0.5), ("b", 0.4)):
        log = MetricLog(tmp_path / run / "graph" / "training_metrics_vae.jsonl")
        log.path.parent.mkdir(parents=True)
        for update in (10, 20):
            metrics = {"vae": value / update, "kl": float("nan")}
            log.write("train", update=update, epoch=1, batch=update, metrics=metrics)
    picture = tmp_path / "both.png"
    runs = [str(tmp_path / run) for run in "ab"]
    monkeypatch.setattr(sys, "argv", ["plot", *runs, "--overlay", str(picture)])
    cli()
    assert picture.stat().st_size > 1000
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_of_a_sweep_all_runs_with_rows_are_drawn(tmp_path, monkeypatch, capsys):
    for job in ("a", "b", "queued"):
        (tmp_path / "sweep" / job).mkdir(parents=True)
        (tmp_path / "sweep" / job / "run.json").write_text("{}")
    for job in "ab":
        log = MetricLog(tmp_path / "sweep" / job / "graph" / "training_metrics_vae.jsonl")
        log.path.parent.mkdir()
        log.write("train", update=1, epoch=1, batch=1, metrics={"vae": 1.0})
    picture = tmp_path / "both.png"
    monkeypatch.setattr(sys, "argv", ["plot", str(tmp_path / "sweep"), "--overlay", str(picture)])
    cli()
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(picture)
    assert [job for job in ("a", "b", "queued") if f"{tmp_path}/sweep/{job}/graph/training_losses.png" in said] == [
        "a",
        "b",
    ]


def test_a_folder_without_rows_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plot", str(tmp_path)])
    assert cli() == 2
    assert "there is no run in" in capsys.readouterr().err
