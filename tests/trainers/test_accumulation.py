"""An update that does not fit in memory is done again with smaller micro-batches, and gives the same weights."""

import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp import pipeline
from fluxflow_exp.errors import UserError
from fluxflow_exp.losses.adversarial import Adversarial
from fluxflow_exp.machine import gradient_buckets
from fluxflow_exp.trainers.autoencoder import AutoencoderTrainer
from fluxflow_exp.trainers.flow import FlowTrainer
from tests.conftest import toy
from tests.helpers.children import finish_ranks
from tests.helpers.outcomes import losses
from tests.helpers.trainers import ALL_ON, PERCEPTUAL, START, build, updated

pytestmark = pytest.mark.usefixtures("garbage_apart")

Loss = Callable[..., Any]
NOISE = "+stage.steps.vae_gan.trainer.adversarial.instance_noise=0.1"
EVERYTHING = [*ALL_ON, *PERCEPTUAL, *START, NOISE]


def short_of_memory(loss: Loss, *, fits: int, sizes: list[int] | None = None) -> Loss:
    """`loss` that fails on more than `fits` images, once it has computed and, where it can, after a good slice."""

    done = 0  # images of the share

    def planted(owner: Any, *arguments: Any) -> Any:
        nonlocal done
        found = loss(owner, *arguments)
        size = len(arguments[0])
        if sizes is not None:
            sizes.append(size)
        done = (done + size) % (len(owner.fakes) if isinstance(owner, Adversarial) else owner.accumulation.share)
        if size > fits and not done:
            raise torch.OutOfMemoryError("planted")
        return found

    return planted


def weights_after(trainer: Any, batch: Any) -> tuple[dict[str, float], list[torch.Tensor]]:
    """The last metrics and the weights after three updates."""
    for _ in range(3):
        metrics = updated(trainer, batch)
        trainer.update_index += 1
    return metrics, [p.clone() for player in trainer.players.values() for p in player.parameters]


@pytest.mark.parametrize(
    ("step", "failing", "chosen"),
    [
        ("vae", "_generator", []),
        ("vae_gan", "_generator", EVERYTHING),
        ("vae_gan", "discriminator_terms", EVERYTHING),
        ("flow", "_loss", ["stage.steps.flow.cfg_dropout_prob=0.5"]),
    ],
)
def test_it_trains_as_if_the_smaller_micro_batch_had_been_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failing: str, chosen: list[str]
) -> None:
    def run(size: int) -> Any:
        micro = [f"hardware.micro_batch.{kind}={size}" for kind in ("autoencoder", "flow")]
        trainer, batch = build(tmp_path / str(size), step, "optimizer=sgd", *chosen, *micro)
        return weights_after(trainer, batch), trainer

    (expected, weights), _ = run(2)
    kind = next(each for each in (FlowTrainer, AutoencoderTrainer, Adversarial) if hasattr(each, failing))
    monkeypatch.setattr(kind, failing, short_of_memory(getattr(kind, failing), fits=2))
    (metrics, lowered), trainer = run(4)
    assert trainer.accumulation.micro_batch == 2
    if failing == "discriminator_terms":  # the generator's first turn was done with 4: its sums are in another order
        assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-5)
        for mine, theirs in zip(lowered, weights, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    else:
        assert metrics == expected
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(lowered, weights, strict=True))


def test_a_share_that_is_no_power_of_two_is_split_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    planted = short_of_memory(Adversarial.discriminator_terms, fits=2, sizes=sizes)
    monkeypatch.setattr(Adversarial, "discriminator_terms", planted)
    trainer, _ = build(tmp_path, "vae_gan", *START, "stage.steps.vae_gan.batch_size=20")
    (batch,) = trainer.batches(0, 1)
    updated(trainer, batch)
    # The slices of 2 lie across those of the reconstructions, which were made by 20.
    assert sizes == [20, 10, 10, 5, 5, 5, 5, *[2] * 10]


def test_what_the_failed_pass_held_is_free_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, batch = build(tmp_path, "vae")
    original, held = AutoencoderTrainer._generator, []

    def planted(trainer: Any, *arguments: Any) -> Any:
        assert not any(reference() is not None for reference in held)
        terms, weights = original(trainer, *arguments)
        if not held:
            held.append(weakref.ref(terms["l1"]))
            raise torch.OutOfMemoryError("planted")
        return terms, weights

    monkeypatch.setattr(AutoencoderTrainer, "_generator", planted)
    updated(trainer, batch)
    assert len(held) == 1


def vae(root: Path, *overrides: str) -> dict[str, Any]:
    """A run of the autoencoder alone that looks at nothing on its way."""
    blind = ["evaluation.every_epochs=null", "samples.every_epochs=null"]
    return toy(root, "~stage.steps.vae_gan", "~stage.steps.flow", *blind, *overrides)


def record_of(root: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((root / "quickstart" / "run.json").read_text())
    return record


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the micro-batches of an autoencoder where only 2 images fit."""
    seen: list[int] = []
    monkeypatch.setattr(
        AutoencoderTrainer, "_generator", short_of_memory(AutoencoderTrainer._generator, fits=2, sizes=seen)
    )
    return seen


def test_a_run_says_and_records_what_fits_and_continues_with_it(
    tmp_path: Path, sizes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.run(vae(tmp_path, "stage.steps.vae.n_epochs=1"))
    assert sizes[:4] == [8, 4, 4, 2]
    said = capsys.readouterr().out
    assert "Out of memory with micro-batch 8 at update 1 of step 'vae': doing it again with 4" in said
    assert "equal to within rounding" in said
    found = record_of(tmp_path)["micro_batch"]["vae"]
    assert (found["images"], found["update"], found["on"]["gpu"]) == (2, 1, "CPU")
    assert record_of(tmp_path)["steps"]["vae"]["micro_batch"] == 2

    longer = ["stage.steps.vae.n_epochs=2", "resume=extend"]
    sizes.clear()
    pipeline.run(vae(tmp_path, *longer))
    assert set(sizes) == {2}
    assert "micro-batch 2, as found before to fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (["hardware.micro_batch.autoencoder=1"], 1),
        (["hardware.micro_batch.autoencoder=4"], 2),
        (["hardware.activation_checkpointing=true"], 8),
    ],
)
def test_what_was_found_holds_for_no_smaller_choice_and_no_other_need(
    tmp_path: Path, sizes: list[int], overrides: list[str], first: int
) -> None:
    pipeline.run(vae(tmp_path, "stage.steps.vae.n_epochs=1"))
    sizes.clear()
    pipeline.run(vae(tmp_path, "stage.steps.vae.n_epochs=2", "resume=extend", *overrides))
    assert sizes[0] == first


def test_where_not_even_one_image_fits_the_run_ends_and_says_what_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoencoderTrainer, "_generator", short_of_memory(AutoencoderTrainer._generator, fits=0))
    with pytest.raises(UserError, match=r"(?s)micro-batch 1 at update 1 .*activation_checkpointing=true.*img_size"):
        pipeline.run(vae(tmp_path))
    assert "micro_batch" not in record_of(tmp_path)


def test_an_error_outside_of_the_passes_ends_the_run_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr("fluxflow_exp.trainers.player.Player.apply", planted)
    with pytest.raises(UserError, match=r"(?s)a smaller micro-batch does not help: planted.*activation_checkpointing"):
        pipeline.run(vae(tmp_path))


def test_the_flow_measures_its_latents_with_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = build(tmp_path, "flow")
    encode, seen = trainer.compressor.forward, []

    def planted(images: Any) -> Any:
        seen.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("planted")
        return encode(images)

    monkeypatch.setattr(trainer.compressor, "forward", planted)
    trainer.accumulation.within_memory(trainer.prepare, update=1)
    assert seen[:3] == [8, 4, 2]
    assert set(seen[2:]) == {2}
    assert trainer.accumulation.micro_batch == 2


def test_within_a_spread_update_it_cannot_be_lowered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlowTrainer, "_loss", short_of_memory(FlowTrainer._loss, fits=2))
    trainer, batch = build(tmp_path, "flow")
    trainer.players["flow"].sharded = True
    with pytest.raises(UserError, match=r"fsdp.*set hardware\.micro_batch\.flow=4"):
        updated(trainer, batch)


class SecondRankIsShort:
    """Two images fit on the second rank, any number on the first.

    It fails at the end of a backward pass, when most gradients are being exchanged.
    """

    def __call__(self) -> None:
        gradient_buckets.SIZE = 2**12
        loss = AutoencoderTrainer._generator

        def planted(trainer: Any, images: torch.Tensor, *arguments: Any) -> Any:
            def fail(_: torch.Tensor) -> None:
                hook.remove()
                assert trainer.accumulation.buckets["vae",].begun > 1
                raise torch.OutOfMemoryError("planted")

            if len(images) > 2:
                hook = next(trainer.compressor.parameters()).register_hook(fail)
            return loss(trainer, images, *arguments)

        if os.environ["RANK"] == "1":
            AutoencoderTrainer._generator = planted  # type: ignore[method-assign]


@pytest.mark.slow
def test_the_ranks_go_on_with_what_fits_on_all(tmp_path: Path) -> None:
    pipeline.run(vae(tmp_path / "alone", "stage.steps.vae.n_epochs=1"))
    codes = finish_ranks(vae(tmp_path, "stage.steps.vae.n_epochs=1"), tmp_path / "log", 2, SecondRankIsShort())
    first = (tmp_path / "log.0").read_text()
    assert codes == [0, 0], first
    assert first.count("Another rank ran out of memory: micro-batch 2 from here on") == 1
    assert record_of(tmp_path)["micro_batch"]["vae"]["images"] == 2
    expected = losses(tmp_path / "alone" / "quickstart")
    assert losses(tmp_path / "quickstart") == pytest.approx(expected, rel=1e-4, abs=1e-4)  # the order of sums
