"""Defects that the field has shipped, built again: each trains without an error, and the check of wiring finds it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_exp.config.compose import resolve, typed
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.losses.adversarial import Adversarial
from fluxflow_exp.losses.perceptual import Perceptual
from fluxflow_exp.losses.reconstruction import Reconstruction
from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.step_length import length_of
from fluxflow_exp.trainers.autoencoder import AutoencoderTrainer
from fluxflow_exp.trainers.ema import EMA
from fluxflow_exp.trainers.flow import FlowTrainer
from fluxflow_exp.trainers.latents import Encoded
from fluxflow_exp.trainers.phase import Phase
from fluxflow_exp.trainers.player import Player
from fluxflow_exp.wiring import gradients, weights_move
from fluxflow_exp.wiring import shrink as toy
from fluxflow_exp.wiring.check import Check
from fluxflow_exp.wiring.keys_act import Effects
from fluxflow_exp.wiring.toy_trainer import ToyTrainer, open_data
from tests.conftest import TOY_WITHOUT_DATA
from tests.conftest import toy as toy_run
from tests.helpers.datasets import noise, write_folder

LPIPS = ["data.img_size=32", "+loss@stage.steps.vae_gan.trainer.perceptual=lpips"]
LPIPS += ["stage.steps.vae_gan.trainer.perceptual.net=squeeze"]
NOISE = "stage.steps.vae_gan.trainer.adversarial.instance_noise"
DROPOUT = "stage.steps.flow.cfg_dropout_prob"


class LpipsWithoutGradient(Perceptual):
    """As in a training example of diffusers: the loss is logged, and trains nothing."""

    @torch.no_grad()
    def __call__(self, reconstruction: Tensor, images: Tensor, places: Tensor) -> Terms:
        return super().__call__(reconstruction, images, places)


class DiscriminatorNeverStepped(AutoencoderTrainer):
    """As there: it has an optimizer, which nobody calls."""

    def phases(self) -> list[Phase]:
        return super().phases()[:1]


class SignedWeight(Adversarial):
    """FluxFlow Training's adaptive weight, a ratio of losses: negative where the generator's loss is."""

    def adapt(self, reconstruction: Tensor, adversarial: Tensor, *others: Any) -> Tensor:
        return (reconstruction.mean() / adversarial.mean()).detach()


class NoiseWithoutEffect(AutoencoderTrainer):
    """FluxFlow Training's instance noise, added only to what requires a gradient: nothing does."""

    def begin_update(self, batch: Any) -> None:
        super().begin_update(batch)
        self.adversarial.level = 0.0


class DropoutNotPassedOn(FlowTrainer):
    """FluxFlow Training's trainer is built without the share of captions that its configuration names."""

    def begin_update(self, batch: Any) -> None:
        super().begin_update(batch)
        self.dropped = [False] * len(self.dropped)


class CaptionsKept(Encoded):
    """Draws which captions to drop, and drops none."""

    def text(self, micro: Any, dropped: list[bool]) -> tuple[Tensor, ...]:
        return super().text(micro, [False] * len(dropped))


class FlowThatKeepsCaptions(FlowTrainer):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.latents = CaptionsKept(self.machine, self.setup.parts, trains_text=self.trains_text)


class ArgumentNeverUsed(Reconstruction):
    def __init__(self, *, l1: float = 1.0, mse: float = 1.0, edges: float = 0.5) -> None:
        super().__init__(l1=l1, mse=mse)


class EdgesAtFault(Reconstruction):
    """Sound as it is configured, and at fault with any other `edges`: in one of the ways that code is."""

    def __init__(self, *, l1: float = 1.0, mse: float = 1.0, edges: float = 0.5, fault: str = "") -> None:
        super().__init__(l1=l1, mse=mse)
        self.fault = fault if edges != 0.5 else ""
        if self.fault == "constructor":
            raise TypeError("edges is taken for a tensor")

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Terms:
        terms = super().__call__(reconstruction, images)
        if self.fault == "attribute":
            raise AttributeError("a loss has no attribute 'edge'")
        if self.fault == "graph":
            terms["l1"].detach().sum().backward()  # type: ignore[no-untyped-call]
        if self.fault == "sizes":
            return {"l1": terms["l1"] + torch.zeros(len(images) + 1), "mse": terms["mse"]}
        return {**terms, "l1": terms["l1"] * math.inf} if self.fault == "infinite" else terms


class GradientIntoTheEncoder(FlowTrainer):
    """The part that is only used is trained along."""

    def inputs(self, batch: Any) -> Tensor:
        self.compressor.requires_grad_(True)
        return super().inputs(batch)

    def _loss(self, *arguments: Any) -> Any:
        terms, weights = super()._loss(*arguments)
        leak = self.compressor.head[-1].bias.sum()
        return {"flow": terms["flow"] + leak}, weights


def toy_of(tmp_path: Path, step: str, *overrides: str) -> ToyTrainer:
    return toy_in(tmp_path, step, toy_run(tmp_path, "stage.steps.vae_gan.n_epochs=3", *overrides))


def toy_in(tmp_path: Path, step: str, values: dict[str, Any]) -> ToyTrainer:
    small, _ = toy.shrink(values)
    config = typed(values)
    data = open_data(config, step)
    return ToyTrainer(small, step, data, length_of(config.stage.steps[step], data, config), tmp_path / "scratch")


def trained_by(step: str, trainer: type) -> str:
    return f"stage.steps.{step}.trainer._target_={__name__}.{trainer.__name__}"


def failed(checks: list[Check]) -> list[str]:
    return [each.check for each in checks if not each.passed]


def acts(toy: ToyTrainer, key: str) -> list[bool]:
    """What the check of one key says: whether it acts, or nothing if it is off."""
    value: Any = toy.values
    for name in key.split("."):
        value = value[name]
    return [check.passed for check in Effects(toy).check(key, value)]


def test_lpips_under_no_grad_is_found(tmp_path: Path) -> None:
    defect = f"stage.steps.vae_gan.trainer.perceptual._target_={__name__}.LpipsWithoutGradient"
    sound, broken = (gradients.checks(toy_of(tmp_path, "vae_gan", *LPIPS, *more)) for more in ([], [defect]))
    assert failed(sound) == []
    assert failed(broken) == ["gradient of lpips"]


def test_a_discriminator_that_is_never_stepped_is_found(tmp_path: Path) -> None:
    toy = toy_of(tmp_path, "vae_gan", trained_by("vae_gan", DiscriminatorNeverStepped))
    assert failed(weights_move.checks(toy)) == ["optimizer of discriminator moves its parts"]


def test_an_adaptive_weight_that_turns_negative_is_found(tmp_path: Path) -> None:
    defect = f"stage.steps.vae_gan.trainer.adversarial._target_={__name__}.SignedWeight"
    sound, broken = (gradients.checks(toy_of(tmp_path, "vae_gan", *more)) for more in ([], [defect]))
    assert failed(sound) == []
    assert failed(broken) == ["no term has a negative weight"]


@pytest.mark.parametrize(
    ("step", "change", "note"),
    [
        ("vae", "kl.weight=0", "loss kl has weight 0: it adds nothing"),
        ("vae_gan", "adversarial.weight=0", "loss adversarial has weight 0 in g: it adds nothing"),
        ("vae_gan", "reconstruction.mse=0", None),  # l1 has some
    ],
)
def test_a_loss_of_weight_0_is_found(tmp_path: Path, step: str, change: str, note: str | None) -> None:
    warming = f"stage.steps.{step}.trainer.kl.warmup=0.9"  # longer than the updates of each kind that are looked at
    found = gradients.checks(toy_of(tmp_path, step, warming, f"stage.steps.{step}.trainer.{change}"))
    assert [each.note for each in found if not each.passed] == ([note] if note else [])


def test_the_weight_shown_is_that_after_the_warm_up(tmp_path: Path) -> None:
    found = gradients.checks(toy_of(tmp_path, "vae", "stage.steps.vae.trainer.kl.warmup=0.5"))
    (note,) = [each.note for each in found if each.check == "no term has a negative weight"]
    assert note == "at the end: l1 1, mse 1, kl 0.001"


@pytest.mark.parametrize("defect", ["never executed", "a copy"])
def test_averages_that_do_not_average_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    toy = toy_of(tmp_path, "vae")
    assert failed(weights_move.checks(toy)) == []
    update: Callable[[EMA], None] = EMA.update

    def copying(ema: EMA) -> None:
        ema.decay = 0.0
        update(ema)

    monkeypatch.setattr(EMA, "update", copying if defect == "a copy" else lambda ema: None)
    assert failed(weights_move.checks(toy)) == ["EMA of vae moves"]


def test_an_ema_that_no_player_has_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoencoderTrainer, "AVERAGED", ())
    toy = toy_of(tmp_path, "vae")
    assert failed(weights_move.checks(toy)) == ["EMA moves"]
    assert acts(toy, "stage.steps.vae.ema.decay") == [False]


def test_instance_noise_without_effect_is_found(tmp_path: Path) -> None:
    chosen = f"+{NOISE}=0.1"
    assert acts(toy_of(tmp_path, "vae_gan", chosen), NOISE) == [True]
    broken = toy_of(tmp_path, "vae_gan", chosen, trained_by("vae_gan", NoiseWithoutEffect))
    assert acts(broken, NOISE) == [False]


@pytest.mark.parametrize("trainer", [DropoutNotPassedOn, FlowThatKeepsCaptions])
def test_caption_dropout_that_is_not_passed_on_is_found(tmp_path: Path, trainer: type) -> None:
    broken = toy_of(tmp_path, "flow", f"{DROPOUT}=0.5", trained_by("flow", trainer))
    assert failed(weights_move.checks(broken)) == ["caption dropout reaches the model"]
    assert acts(broken, DROPOUT) == [False]


def test_a_frozen_part_that_gets_gradient_is_found(tmp_path: Path) -> None:
    broken = gradients.checks(toy_of(tmp_path, "flow", trained_by("flow", GradientIntoTheEncoder)))
    assert failed(broken) == ["gradient of flow"]
    assert next(each.note for each in broken if not each.passed).startswith("reaches compressor, flow_processor")


def test_a_schedule_that_is_never_stepped_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_of(tmp_path, "vae")
    apply: Callable[..., None] = Player.apply

    def without_schedule(player: Player, *arguments: Any, **options: Any) -> None:
        rate = player.rate()
        apply(player, *arguments, **options)
        player.optimizer.param_groups[0]["lr"] = rate

    monkeypatch.setattr(Player, "apply", without_schedule)
    assert failed(weights_move.checks(toy)) == ["learning rate of vae follows its schedule"]


def test_a_key_that_acts_in_a_longer_step_alone_is_told_apart(tmp_path: Path) -> None:
    """R1 is due in updates 1, 17, …, and of 12 updates with a GAN from the second on in none."""
    toy, place = toy_of(tmp_path, "vae_gan"), "stage.steps.vae_gan.trainer.adversarial"
    (check,) = Effects(toy).check(f"{place}.r1_gamma", 1.0)
    assert (check.check, check.passed) == (f"{place}.r1_gamma acts in a longer step", True)
    assert check.note.endswith("nothing changes in the 12 updates that this step has")


def test_of_two_limits_the_one_that_does_not_end_the_step_is_no_fault(tmp_path: Path) -> None:
    for key, most in (("n_epochs", 2), ("max_updates", 1000)):
        limited = toy_of(tmp_path, "vae", f"stage.steps.vae.max_updates={most}")
        assert acts(limited, f"stage.steps.vae.{key}") == [True], key


def test_an_argument_that_its_constructor_never_uses_is_found(tmp_path: Path) -> None:
    place = "stage.steps.vae.trainer.reconstruction"
    toy = toy_of(tmp_path, "vae", f"{place}._target_={__name__}.ArgumentNeverUsed", f"+{place}.edges=0.5")
    assert acts(toy, f"{place}.l1") == [True]
    assert acts(toy, f"{place}.edges") == [False]


@pytest.mark.parametrize(
    ("fault", "passed", "note"),
    [
        (
            "attribute",
            False,
            "0.5 → 0.25 raises AttributeError: a loss has no attribute 'edge' (test_planted_defects.py,",
        ),
        ("constructor", False, "0.5 → 0.25 raises TypeError: edges is taken for a tensor (test_planted_defects.py,"),
        ("graph", False, "0.5 → 0.25 raises RuntimeError: element 0 of tensors does not require grad"),
        ("sizes", True, "0.25 does not fit: The size of tensor a (4) must match the size of tensor b (5)"),
        ("infinite", True, "0.5 → 0.25: the loss 'l1' is not finite"),
    ],
)
def test_only_sizes_that_do_not_fit_tell_by_an_error_that_a_key_acts(
    tmp_path: Path, fault: str, passed: bool, note: str
) -> None:
    place = "stage.steps.vae.trainer.reconstruction"
    chosen = [f"{place}._target_={__name__}.EdgesAtFault", f"+{place}.edges=0.5", f"+{place}.fault={fault}"]
    (check,) = Effects(toy_of(tmp_path, "vae", *chosen)).check(f"{place}.edges", 0.5)
    assert (check.check, check.passed) == (f"{place}.edges acts", passed)
    assert check.note.startswith(note)


def test_an_option_of_another_kind_of_step_is_found_where_it_is_set(tmp_path: Path) -> None:
    key = "stage.steps.vae.cfg_dropout_prob"
    assert acts(toy_of(tmp_path, "vae"), key) == []
    assert acts(toy_of(tmp_path, "vae", f"{key}=0.1"), key) == [False]


def test_augmentation_acts_where_images_are_drawn_anew(tmp_path: Path) -> None:
    folder = [*write_folder(tmp_path, noise(24, (40, 24))), "data.img_size=16"]
    folder += ["data.validation_fraction=0.3", "data.crop=random", "data.flip=true"]
    chosen = [*TOY_WITHOUT_DATA, "stage=vae", "stage.steps.vae.batch_size=8", *folder]
    toy = toy_in(tmp_path, "vae", resolve(compose_config(chosen)))
    for key in ("crop", "flip", "img_size", "validation_fraction", "background"):
        assert acts(toy, f"data.{key}") == [True], key
