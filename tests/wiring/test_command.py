"""Every shipped stage passes the check of wiring; the command says so, and writes a certificate."""

import json
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.config.compose import conf_dir, resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.run import frozen
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.wiring import command as wiring
from fluxflow_exp.wiring import keys_act
from tests.conftest import TOY, toy
from tests.helpers.text_encoders import save
from tests.helpers.trainers import ALL_ON, EVERY

FAST = ["vae", "vae_gan", "flow_cfg"]
SLOW = [
    "vae_gan_spade",
    "gan_only",
    "decoder_gan",
    "flow",
    "quickstart",
    "vae_flow",
    "full",
]  # little beside the steps of the others
ONWARD = ["finetune", "finetune_lora"]  # from published weights; here from fresh ones, which takes a model
WITH_OPTIONS = [*ALL_ON, "data.img_size=64"]
WITH_OPTIONS += ["stage.steps.vae_gan.trainer.perceptual.net=squeeze", "stage.steps.vae_gan.trainer.perceptual.crop=48"]
WITH_OPTIONS += [f"+stage.steps.vae_gan.trainer.adversarial.instance_noise{key}" for key in ("=0.1", "_decay=0.9")]
WITH_OPTIONS += ["+stage.steps.vae_gan.trainer.adversarial.adaptive_limit=0.1"]
WITH_OPTIONS += ["stage.steps.vae_gan.trainer.kl.free_bits=1"]


def failures(checks: list[wiring.Check]) -> list[str]:
    return [f"{each.step}: {each.check}: {each.note}" for each in checks if not each.passed]


def checked(*overrides: str) -> list[wiring.Check]:
    """Of a stage at toy size, with the keys that others are interpolated from."""
    config = compose_config([*TOY, "data.n_images=128", *overrides])
    found = keys_act.shared(config, resolve, set()) + wiring.check(resolve(config), say=lambda text: None)
    assert len(found) > 30
    return found


def test_every_shipped_stage_is_checked() -> None:
    assert sorted(path.stem for path in (Path(conf_dir()) / "stage").glob("*.yaml")) == sorted(FAST + SLOW + ONWARD)


@pytest.mark.parametrize("stage", [*FAST, *(pytest.param(stage, marks=pytest.mark.slow) for stage in SLOW)])
def test_a_shipped_stage_passes(stage: str) -> None:
    assert failures(checked(f"stage={stage}")) == []


@pytest.mark.slow
def test_a_frozen_language_model_passes_and_nothing_is_asked_of_its_optimizer(tmp_path: Path) -> None:
    chosen = ["model/text_encoder=language_model", f"model.text_encoder.name={save(tmp_path / 'qwen', 'qwen3')}"]
    found = checked("stage=flow_cfg", *chosen, "model.text_dim=16")
    assert failures(found) == []
    names = [each.check for each in found]
    assert "frozen text_encoder stays" in names
    assert not any("optimizers.text_encoder." in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ONWARD)
def test_a_stage_that_goes_on_passes(stage: str) -> None:
    assert failures(checked(f"stage={stage}", "model=tiny")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["stage=vae_gan", *WITH_OPTIONS],
        ["stage=vae_gan", "optimizer=sgd", "scheduler=step"],
        [
            "stage=vae",
            "+loss@stage.steps.vae.trainer.equivariance=equivariance",
            "+stage.steps.vae.trainer.latent_noise=0.5",
        ],
        ["stage=vae", "optimizer=rmsprop", "scheduler=plateau"],
        ["stage=vae", "optimizer=adam", "scheduler=exponential", "+stage.steps.vae.trainer.reconstruction.log_mse=0.1"],
        ["stage=flow_cfg", "+loss@stage.steps.flow.trainer.objective=v_prediction", "scheduler=linear"],
        ["stage=flow_cfg", *EVERY],
        ["stage=vae", "stage.steps.vae.trainer.kl.warmup=5", "scheduler=constant"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_every_shipped_loss_optimizer_and_schedule_passes(more: list[str]) -> None:
    assert failures(checked(*more)) == []


def test_the_command_checks_a_run_and_leaves_a_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(toy(tmp_path, stage="vae"), {})
    seen: list[dict[str, Any]] = []

    def check(values: dict[str, Any]) -> list[wiring.Check]:
        seen.append(values)
        return [wiring.Check("vae", "gradient of l1", len(seen) == 1, "reaches compressor")]

    monkeypatch.setattr(wiring, "check", check)
    assert wiring.main(["--run", str(folder.path), "--json", str(tmp_path / "too.json")]) == 0
    assert capsys.readouterr().out.endswith("PASSED: 1 checks\n")
    written = json.loads((folder.path / "wiring.json").read_text())
    assert written == json.loads((tmp_path / "too.json").read_text())
    assert (written["passed"], written["format"]) == (True, 1)
    assert written["checks"] == [
        {"step": "vae", "check": "gradient of l1", "passed": True, "note": "reaches compressor"}
    ]
    assert seen == [frozen.to_build(folder.config)]
    assert wiring.main(["--run", str(folder.path)]) == 1
    said = capsys.readouterr().out
    assert "gradient of l1  FAILED  reaches compressor" in said
    assert said.endswith("FAILED: 1 of 1 checks\n")
    assert not json.loads((folder.path / "wiring.json").read_text())["passed"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stage=vae_gna"], "did you mean 'vae_gan'?"),
        (["stage=flow", "hardware=cpu"], "init_from"),
        (["--run", "nowhere"], "there is no file or folder nowhere"),
        (["stage=vae", "--run", "nowhere"], "leave the overrides out"),
    ],
)
def test_what_cannot_be_checked_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert wiring.main(words) == 2
    assert said in capsys.readouterr().err


def test_a_key_that_the_user_sets_and_nothing_reads_fails() -> None:
    config = compose_config(["stage=vae", "optimizer=sgd"])  # it has a rate of its own

    def of(named: set[str]) -> list[bool]:
        return [e.passed for e in keys_act.shared(config, resolve, named) if e.check == "model.learning_rate acts"]

    assert of(set()) == []
    assert of({"model.learning_rate"}) == [False]
