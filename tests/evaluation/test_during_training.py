"""Measures on a schedule: refused where they cannot be taken, and without effect on the training."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from fluxflow_exp import pipeline
from fluxflow_exp.config.schema import Evaluation
from fluxflow_exp.evaluation.during_training import ValidationMetrics
from fluxflow_exp.evaluation.similarity import psnr
from fluxflow_exp.machine.portion import Portion
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from tests.conftest import toy
from tests.helpers.datasets import image_folder, noise, write_folder
from tests.helpers.networks import small_timm
from tests.helpers.packages import skip_without

skip_without("torchmetrics")
CPU = torch.device("cpu")


def alone(count: int) -> Portion:
    """All rows, of one rank."""
    return Portion.even(Ranks(), count)


def test_by_default_only_psnr_is_measured_and_no_network_loaded() -> None:
    schedule = ValidationMetrics(Evaluation(), of="reconstructions", img_size=8, device=CPU)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target = images.float() / 127.5 - 1
    made = (target + 0.1).clamp(-1, 1)
    found = schedule.of_reconstructions(made, images, target, alone(3))
    assert found == {"val_psnr": float(psnr(made, target).mean())}
    none = ValidationMetrics(Evaluation(), of="samples", img_size=8, device=CPU)
    assert none.of_samples(images, [], images, [], drawn=alone(3), seen=alone(3)) == {}


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


def test_copies_of_training_pictures_are_told_while_training_and_those_are_looked_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path, noise(40, (16, 16)))
    data, features, looked = image_folder(tmp_path), small_timm(tmp_path / "resnet"), []

    def same(images: torch.Tensor) -> torch.Tensor:
        return images

    def track(parts: Any, description: str, *, total: int) -> Any:
        looked.append((description, total))
        return parts

    wanted = Evaluation(metrics=["copies"], features=str(features), training_images=20)
    schedule = ValidationMetrics(wanted, of="samples", img_size=16, device=CPU, data=data, through=same, track=track)
    assert schedule.training is not None
    trained = torch.stack([schedule.training.sample(row).image for row in range(20)])
    held_out = torch.stack([data.validation.read(i, Random(0)).image for i in range(len(data.validation))])
    state = torch.get_rng_state()
    for samples, rate in ((trained, 1.0), (trained.flip(3), 1.0), (torch.zeros_like(trained), 0.0)):
        words = ["a"] * 20, held_out, ["a"] * len(held_out)
        found = schedule.of_samples(samples, *words, drawn=alone(20), seen=alone(len(held_out)))
        assert found == {"val_copies": rate, "val_copies_held_out": 1 / len(held_out)}
    assert looked == [("Features of 20 training pictures", 1)]
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"


def test_training_pictures_that_cannot_be_looked_through_are_said(tmp_path: Path) -> None:
    write_folder(tmp_path, noise(20, (16, 16)))
    data = image_folder(tmp_path)
    data.train = Passing()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"metrics: copies: .* streamed shards pass by once"):
        ValidationMetrics(Evaluation(metrics=["copies"]), of="samples", img_size=16, device=CPU, data=data)


class Passing:
    """A stream."""

    epoch_size, max_readers, varies = 4, 1, "it passes"

    def __len__(self) -> int:
        return 4

    def samples(self, **_: int) -> Any:
        raise NotImplementedError


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
