"""All arms composed and checked before anything is trained."""

from pathlib import Path

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.study.arms import apart, check_all, measured_apart, metric_problems
from fluxflow_exp.study.spec import load, shipped
from tests.helpers import exported
from tests.helpers.datasets import noise, write_folder
from tests.study.test_spec import FIVE, study


def test_every_arm_is_composed_as_a_run_is(tmp_path: Path) -> None:
    runs = check_all(study(tmp_path), {})
    assert runs["large"].values["stage"]["steps"]["vae"]["batch_size"] == 32
    assert runs["small"].values["stage"]["steps"]["vae"]["batch_size"] == 8
    assert runs["small"].values["output_root"] == "outputs/mine"


def test_mistakes_of_all_arms_and_outcomes_are_told_together(tmp_path: Path) -> None:
    text = FIVE.replace("stage.steps.vae.batch_size=8", "model.activaton=silu").replace("batch_size=32", "batch_size=0")
    with pytest.raises(UserError) as told:
        check_all(study(tmp_path, text.replace("val_psnr", "[val_psnrr, fd]")), {})
    said = str(told.value)
    assert "arm small: model.activaton=silu: there is no key" in said
    assert "arm large: stage.steps.vae.batch_size must be at least 1" in said
    assert "outcome val_psnrr: there is no such held-out metric; did you mean 'val_psnr'?" in said


def test_an_outcome_must_be_one_that_the_arms_can_have(tmp_path: Path) -> None:
    arms = {arm: run.values for arm, run in check_all(study(tmp_path), {}).items()}
    assert metric_problems("val_psnr", arms) == []
    assert metric_problems("psnr", arms) == []
    assert "evaluation.metrics=[psnr,ssim] does" in metric_problems("val_ssim", arms)[0]
    assert "large trains no flow transformer" in metric_problems("val_flow", arms)[0]
    assert "name the guidance of the samples, as fd@1" in metric_problems("fd", arms)[0]
    assert "psnr takes no guidance" in metric_problems("psnr@2", arms)[0]


def test_what_training_cannot_measure_is_not_offered(tmp_path: Path) -> None:
    said = metric_problems("val_clip_score", {})[0]
    assert "there is no such held-out metric" in said
    offered = said.partition("while training: ")[2].partition(";")[0].split(", ")
    assert len(offered) == len(set(offered))
    assert {"val_psnr", "val_ssim", "prompt_accuracy_kind"} <= set(offered)
    assert not {"val_clip_score", "val_prompt_accuracy"} & set(offered)


def test_what_arms_differ_in_is_said_with_both_values(tmp_path: Path) -> None:
    spec = study(tmp_path)
    assert apart(spec, check_all(spec, {})) == ["small differs from large in stage.steps.vae.batch_size 8 (there 32)"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["model.compressor.widths=[8,16,24]"],
            "model.compressor.widths [8, 16, 24] (there [16, 32, 64]), "
            "model.expander.widths [8, 16, 24] (there [16, 32, 64])",
        ),
        (
            ["data.n_images=32", "+data.n_validation=9", "model.activation=silu", "optimizer.lr=0.5"],
            "data.n_images 32 (there 64), data.n_validation 9 (there absent), model.activation silu (there bezier) "
            "and 1 more",
        ),
    ],
    ids=["of two parts", "many"],
)
def test_all_keys_that_keep_arms_apart_are_named_or_counted(tmp_path: Path, words: list[str], said: str) -> None:
    small = ", ".join(f'"{word}"' for word in ["stage.steps.vae.batch_size=32", *words])
    spec = study(tmp_path, FIVE.replace("stage.steps.vae.batch_size=8", f"[{small}]"))
    assert apart(spec, check_all(spec, {})) == [f"small differs from large in {said}"]


def test_arms_that_come_to_the_same_are_told(tmp_path: Path) -> None:
    text = FIVE.replace("stage.steps.vae.batch_size=8", "model.activation=bezier").replace(
        "large: stage.steps.vae.batch_size=32", "large: log_every=7"
    )
    with pytest.raises(UserError, match="arms large and small differ in log_every alone, which makes no other run"):
        check_all(study(tmp_path, text), {})
    with pytest.raises(UserError, match="arms large and small come to the same configuration"):
        check_all(study(tmp_path, text.replace("log_every=7", "data=shapes")), {})


def test_minutes_of_a_shared_device_are_refused(tmp_path: Path) -> None:
    words = ["side_by_side=2", "arms.large=[stage.steps.vae.minutes=1]"]
    with pytest.raises(UserError, match="arm large: minutes of a GPU that others share are not alike: give updates"):
        check_all(study(tmp_path, FIVE, *words), {})
    with pytest.raises(UserError, match="arm small: minutes of a GPU that others share"):
        check_all(study(tmp_path, FIVE, "side_by_side=2", "minutes=3"), {})
    assert check_all(study(tmp_path, FIVE, "minutes=3"), {})


def test_arms_with_data_of_their_own_are_noted(tmp_path: Path) -> None:
    text = FIVE.replace("stage.steps.vae.batch_size=8", "data.img_size=16")
    spec = study(tmp_path, text)
    (note,) = measured_apart(spec, check_all(spec, {}))
    assert note.startswith("small differs from large in data.img_size: values compare as far as")
    spec = study(tmp_path)
    assert measured_apart(spec, check_all(spec, {})) == []


def test_the_shipped_toy_is_right(tmp_path: Path) -> None:
    assert "toy" in shipped()
    assert list(check_all(load("toy", []), {})) == ["silu", "bezier"]


@pytest.mark.parametrize("name", [name for name in shipped() if name != "toy"])
def test_a_shipped_study_is_right_where_its_data_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("data/emoji128", "data/styles"):
        write_folder(tmp_path / folder, noise(4, (16, 16)))
        for file, numbers in (("captions.tsv", (0, 1)), ("held_out.tsv", (2, 3))):
            (tmp_path / folder / file).write_text("".join(f"{n}.png\tbox {n}, noto style\n" for n in numbers))
    monkeypatch.chdir(tmp_path)
    if name == "flow_parts":  # whose first lines train an autoencoder
        file = tmp_path / "outputs" / "styles_vae" / "weights" / "vae.safetensors"
        exported.publish(file, "compact_f8", parts=("compressor", "expander"))
    spec = load(name, [])
    runs = check_all(spec, {}, trains=False)
    assert list(runs) == list(spec.arms)
    assert len(apart(spec, runs)) == len(spec.arms) - 1
