"""Measures on a schedule: refused where they cannot be taken, and without effect on the training."""

from pathlib import Path

import pytest
import torch

from fluxflow_exp import pipeline
from fluxflow_exp.config.schema import Evaluation
from fluxflow_exp.evaluation.during_training import ValidationMetrics
from fluxflow_exp.evaluation.similarity import psnr
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from tests.conftest import toy
from tests.helpers.networks import small_timm

pytest.importorskip("torchmetrics")
CPU = torch.device("cpu")


def test_by_default_only_psnr_is_measured_and_no_network_loaded() -> None:
    schedule = ValidationMetrics(Evaluation(), of="reconstructions", img_size=8, device=CPU)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target = images.float() / 127.5 - 1
    found = (target + 0.1).clamp(-1, 1)
    assert schedule.of_reconstructions(found, images, target) == {"val_psnr": float(psnr(found, target).mean())}
    assert (
        ValidationMetrics(Evaluation(), of="samples", img_size=8, device=CPU).of_samples(images, [], images, []) == {}
    )


def test_images_that_are_too_small_and_weights_that_are_not_there_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="16 pixels a side, and ms_ssim needs 176"):
        ValidationMetrics(Evaluation(metrics=["ssim", "ms_ssim"]), of="reconstructions", img_size=16, device=CPU)

    def no_network(*_: object) -> None:
        raise OSError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ValueError, match=r"metrics: lpips: .*or name it with evaluation.lpips_weights_file=FILE"):
        ValidationMetrics(Evaluation(metrics=["lpips"]), of="reconstructions", img_size=64, device=CPU)


def test_measuring_more_changes_nothing_of_the_training(tmp_path: Path) -> None:
    features = small_timm(tmp_path / "resnet")
    more = ["evaluation.metrics=[psnr,ssim,rfd]", "evaluation.raw=true", f"evaluation.features={features}"]
    short = ["stage.steps.vae.batch_size=8", "stage.steps.vae.n_epochs=2", "samples.every_epochs=null"]
    kept = {}
    for name, words in (("less", []), ("more", more)):
        pipeline.run(toy(tmp_path, f"name={name}", *short, *words, stage="vae"))
        folder = RunFolder(tmp_path / name)
        rows = read_rows(folder.metrics("vae"))
        kept[name] = (
            (folder.weights / "vae.raw.safetensors").read_bytes(),
            [row["metrics"] for row in rows if row["kind"] == "train"],
            [row["metrics"]["val_psnr"] for row in rows if row["kind"] == "held_out"],
        )
    assert kept["less"] == kept["more"]
