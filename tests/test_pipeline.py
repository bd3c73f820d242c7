"""The pipeline on data that goes wrong: bad files, bad numbers, full disks."""

import json
import math
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.losses.reconstruction import Reconstruction
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.trainers.base import Trainer
from tests.conftest import TOY, TOY_WITHOUT_DATA, toy
from tests.helpers.children import finish
from tests.helpers.datasets import noise, write_folder


def folder(path: Path, *, n: int = 40, broken: int = 0) -> list[str]:
    """An image folder of `n` pictures, the first `broken` of them truncated; the overrides that read it."""
    found = write_folder(path, noise(n, (20, 16)))
    for i in range(broken):
        data = (path / "images" / f"{i}.png").read_bytes()
        (path / "images" / f"{i}.png").write_bytes(data[:60])
    return found


def image_run(tmp_path: Path, *overrides: str, n: int = 40, broken: int = 0) -> dict[str, Any]:
    step = ["stage.steps.vae.n_epochs=2", "stage.steps.vae.batch_size=8", "data.img_size=16", f"output_root={tmp_path}"]
    return resolve(
        compose_config(["stage=vae", *folder(tmp_path, n=n, broken=broken), *TOY_WITHOUT_DATA, *step, *overrides])
    )


def test_unreadable_images_are_replaced_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.run(image_run(tmp_path, "data.max_bad_fraction=0.2", broken=3))
    lines = [json.loads(line) for line in (tmp_path / "vae" / "bad_samples.jsonl").read_text().splitlines()]
    assert {line["sample"] for line in lines} <= {"0.png", "1.png", "2.png"}
    assert len(lines) == len({line["sample"] for line in lines}) >= 2
    assert all(line["reason"] for line in lines)
    summary = json.loads((tmp_path / "vae" / "summary.json").read_text())
    assert summary["steps"]["vae"]["images"] == 64
    assert summary["unreadable_samples"] == len(lines)
    said = capsys.readouterr().out
    assert "Unreadable samples so far: 1, e.g. " in said or "Unreadable samples so far: 2, e.g. " in said
    assert f"  unreadable: {len(lines)} samples, listed with the reasons in " in said
    log = RunFolder(tmp_path / "vae").log.read_text()
    assert f"  unreadable: {len(lines)} samples" in log
    assert "unreadable samples" in (tmp_path / "vae" / "report.html").read_text()


def test_too_many_unreadable_images_stop_the_run_and_say_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)of 40 samples cannot be read.*max_bad_fraction.*bad_samples.jsonl"):
        pipeline.run(image_run(tmp_path, broken=15))


def test_a_wrong_folder_is_said_before_anything_is_read(tmp_path: Path) -> None:
    values = image_run(tmp_path)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"^data: 40 pictures are not in "):
        pipeline.run(values)
    assert not (tmp_path / "vae").exists()


def test_a_set_smaller_than_a_batch_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fewer than a batch of 64"):
        pipeline.run(image_run(tmp_path, "stage.steps.vae.batch_size=64"))
    assert not (tmp_path / "vae").exists()


def test_a_loss_that_is_not_finite_stops_before_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, calls = Reconstruction.__call__, [0]

    def poisoned(self: Reconstruction, found: torch.Tensor, images: torch.Tensor) -> Any:
        calls[0] += 1
        terms = compute(self, found, images)
        if calls[0] == 6:
            terms["l1"] = terms["l1"] * torch.tensor([1.0, math.nan] * 4)
        return terms

    monkeypatch.setattr(Reconstruction, "__call__", poisoned)
    with pytest.raises(UserError, match=r"loss 'l1' is not finite at update 6 of step 'vae'; samples: train-\d+"):
        pipeline.run(toy(tmp_path))
    saved = sorted(p.name for p in (tmp_path / "quickstart" / "checkpoints").glob("*.pt"))
    assert [name[:15] for name in saved] == ["01-vae-00000003"]
    monkeypatch.undo()
    pipeline.run(toy(tmp_path))
    assert (tmp_path / "quickstart" / "weights" / "final.safetensors").exists()


def test_a_full_disk_keeps_the_previous_checkpoint_and_the_same_command_continues(tmp_path: Path) -> None:
    values, log = toy(tmp_path), tmp_path / "log"
    assert finish(values, log, _fill_the_disk) != 0
    assert "No space left on device" in log.read_text()
    assert "the same command continues" in log.read_text()
    assert len(list((tmp_path / "quickstart" / "checkpoints").glob("*"))) == 1
    assert finish(values, log) == 0


def _fill_the_disk() -> None:
    save, calls = torch.save, [0]

    def failing(value: Any, file: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        save(value, file)

    torch.save = failing


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_every_activation_trains_through_the_pipeline(tmp_path: Path, activation: str) -> None:
    short = [f"stage.steps.{s}.max_updates=2" for s in ("vae", "vae_gan", "flow")]
    pipeline.run(toy(tmp_path, f"model.activation={activation}", *short))
    assert "prompt_accuracy" in json.loads((tmp_path / "quickstart" / "summary.json").read_text())["metrics"]


# What an optimizer's state holds by parameter, beside the count of steps.
STATES = {
    "adam": {"exp_avg", "exp_avg_sq"},
    "adamw": {"exp_avg", "exp_avg_sq"},
    "rmsprop": {"square_avg"},
    "sgd": {"momentum_buffer"},
}
# Factor of the rate after `u` of 8 updates, with the values that conf/scheduler has.
FACTORS = {
    "exponential": lambda u: 0.01 ** (u / 8),
    "linear": lambda u: 1 - 0.9 * u / 8,
    "plateau": lambda u: 1.0,
    "step": lambda u: 0.3 ** min(u // 2, 3),
}


@pytest.mark.parametrize(
    ("optimizer", "scheduler"), [("adam", "plateau"), ("adamw", "linear"), ("rmsprop", "step"), ("sgd", "exponential")]
)
def test_the_optimizer_and_the_scheduler_that_are_named_train(tmp_path: Path, optimizer: str, scheduler: str) -> None:
    small = [*TOY, "stage.steps.vae.n_epochs=2", "stage.steps.vae.batch_size=8", "log_every=1", "samples.count=1"]
    chosen = ["stage=vae", *small, f"optimizer={optimizer}", f"scheduler={scheduler}", f"output_root={tmp_path}"]
    pipeline.run(resolve(compose_config([*chosen, "optimizer.lr=0.004", "evaluation.every_epochs=null"])))
    run = tmp_path / "vae"
    rows = [json.loads(line) for line in (run / "graph" / "training_metrics_vae.jsonl").read_text().splitlines()]
    rates = [row["learning_rates"]["vae"] for row in rows if row["kind"] == "train"]
    assert rates == pytest.approx([0.004 * FACTORS[scheduler](u) for u in range(1, 9)])
    (last,) = (run / "checkpoints").glob("*-final-*.pt")
    saved = torch.load(last, weights_only=True)["players"]["vae"]["optimizer"]
    assert all(set(state) - {"step"} == STATES[optimizer] for state in saved["state"].values())
    # torch's Adam and AdamW share a state; this flag of the group tells them apart.
    assert saved["param_groups"][0].get("decoupled_weight_decay", False) == (optimizer == "adamw")
    betas = [row["metrics"]["kl_beta"] for row in rows if row["kind"] == "train"]
    assert betas == pytest.approx([1e-4 if u else 0.0 for u in range(8)])


def test_a_second_process_in_the_folder_is_refused(tmp_path: Path) -> None:
    from fluxflow_exp.run.folder import RunFolder

    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.lock()
    with pytest.raises(UserError, match="another process is training"):
        second.lock()


@pytest.mark.usefixtures("drawn")
def test_a_finished_run_leaves_what_it_should_and_fresh_parts_are_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.run(toy(tmp_path, "samples.every_updates=3"))
    said = capsys.readouterr().out
    assert "Step vae_gan: discriminator starts from fresh weights (no earlier step made it)" in said
    assert "Step vae_gan: compressor from" in said
    assert "Step flow: flow_processor starts from fresh weights" in said
    run = tmp_path / "quickstart"
    summary = json.loads((run / "summary.json").read_text())
    timed = {"seconds", "images_per_second"}
    always = {"epochs", "updates", "images", "micro_batch", "parameters", "peak_gib", "final"} | timed
    assert set(summary["steps"]["vae"]) == always | {"best", "verdict"}
    assert set(summary["steps"]["vae_gan"]) == always
    assert set(summary["metrics"]["prompt_accuracy_by_attribute"]) == {"kind", "colour", "ground"}
    assert {"val_psnr", "prompt_accuracy"} <= set(summary["metrics"])
    graphs = {"training_losses.png", "kl_loss.png", "learning_rates.png", "batch_times.png", "training_overview.png"}
    graphs.add("health.png")
    assert {p.name for p in (run / "graph").glob("*.png")} == graphs
    assert "val_psnr" in (run / "graph" / "training_summary.txt").read_text()
    names = {p.name for p in (run / "samples").iterdir()}
    assert any(n.startswith("vae_001_002_") and n.endswith("-original.webp") for n in names)
    assert any(n.startswith("vae_001_001_00003_") and n.endswith("-nr_o.webp") for n in names)
    assert "flow_003_002_grid.webp" in names


def test_a_scheduler_that_ends_a_failing_run_does_not_cut_its_reason_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SLURM does with the ranks that another one's end has made fail."""

    def leave(signum: int, frame: Any) -> None:
        raise SystemExit(128 + signum)

    def train(*arguments: Any) -> None:
        raise UserError("planted")

    def of_run(error: Exception, folder: RunFolder) -> Exception:
        signal.raise_signal(signal.SIGTERM)
        return error

    monkeypatch.setattr(pipeline, "_train", train)
    monkeypatch.setattr(pipeline.failures, "of_run", of_run)
    before = signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(UserError, match="planted"):
            pipeline.run(toy(tmp_path))
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("at_once", [False, True])
def test_the_card_of_a_stopped_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    """Also where it is being drawn just then, by a process that would say that the run goes on."""
    run, drawing = tmp_path / "quickstart", subprocess.Popen(["sleep", "600"])
    update = Trainer.update

    def interrupted(self: Trainer, batch: Any) -> None:
        update(self, batch)
        self.setup.live_report._drawing = drawing
        (run / "report.html").write_text("running")
        if at_once:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "update", interrupted)
    with pytest.raises(KeyboardInterrupt if at_once else SystemExit):
        pipeline.run(toy(tmp_path))
    card = (run / "report.html").read_text(encoding="utf-8")
    assert '<span class="state interrupted">' in card
    assert ("everything is saved" in card) is not at_once
    assert drawing.poll() == -signal.SIGTERM
