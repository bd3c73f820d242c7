"""Mistakes on the command line: all at once, with the nearest right name."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fluxflow_exp import main
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config, override_problems
from fluxflow_exp.preflight.check import problems

ROOT = Path(__file__).parents[2]


def one(text):
    found = override_problems([text])
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("stage.steps.vae.n_epoch=3", "did you mean 'stage.steps.vae.n_epochs'?"),
        ("model.activaton=silu", "did you mean 'model.activation'?"),
        ("model.autoencoder.path=vae", "write model/autoencoder=diffusers with it"),
        ("hardware=h20", "did you mean 'h200'?"),
        ("data=somewhere_else", "there is no data named 'somewhere_else'. The choices: hf_dataset, image_folder"),
        ("optimizer@stage.steps.vae.optimizers.vae=rmspro", "did you mean 'rmsprop'?"),
        ("~stage.steps.vea", "did you mean 'stage.steps.vae'?"),
        ("data.n_validation=3", "data.n_validation is off, and to be added: write +data.n_validation=3"),
        (
            "stage.steps.vae.trainer.equivariance=true",
            "write +loss@stage.steps.vae.trainer.equivariance=equivariance",
        ),
        ("stage.steps.vae.trainer.perceptual=lpips", "write +loss@stage.steps.vae.trainer.perceptual=lpips"),
        (
            "stage.steps.vae.trainer.perceptual.weight=1",
            "perceptual is off: write +loss@stage.steps.vae.trainer.perceptual=lpips as well, which switches it on",
        ),
        ("stage.steps.vae.trainer.kl.wieght=1", "did you mean 'stage.steps.vae.trainer.kl.weight'?"),
        ("stage.steps.vae.trainer.setup=3", "there is no key 'stage.steps.vae.trainer.setup'"),
        ("activation=silu", "did you mean 'model.activation'?"),
        ("what is this", "is not an override"),
        ("+hydra.launcher.x.mail-type=END,FAIL", """'+hydra.launcher.x.mail-type="END,FAIL"'"""),
        ("seed=abc", "seed=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ("samples=null", "samples=null: samples cannot be null"),
        ("data=null", "data=null: there is no data named null. The choices: hf_dataset, image_folder"),
        ("data=1", "data=1: there is no data named 1"),
        ("scheduler=as_run", "as_run follows the run's scheduler, which this is. The choices: constant, cosine"),
        ("optimizer=as_run", "as_run follows the run's optimizer, which this is. The choices: adam, adamw"),
        ("+loss=lpips", "a loss goes into a step's trainer: +loss@stage.steps.STEP.trainer.perceptual=lpips"),
        ("loss@stage.steps.vae.trainer.perceptual=lpips", "yet: write +loss@stage.steps.vae.trainer.perceptual=lpips"),
        ("~seed", "seed cannot be taken out; give it a value"),
        ("+sweep=seeds", "there is no key and no group 'sweep'"),
        ("+sweep=seeds", "take --config-dir FOLDER"),
        ("=3", "is not an override (write key=value): no key"),
        ("data.urls=[a.tar,", "put the whole of it in quotes, 'data.urls=[a.tar, …'"),
        ("tracking.notes=a (note)", """quotes within quotes: 'tracking.notes="a (note)"'"""),
        ("samples.sample_captions=[a (b), c]", """'samples.sample_captions=["a (b)","c"]'"""),
        ("model.compressor=[1]", "Cannot merge DictConfig with ListConfig"),
        ("stage.steps.vae.freeze=compressor", "str is not a ListConfig, list or tuple"),
        ("seed=0,1", "a list is written 'seed=[0,1]'"),
        ("seed=0,1", "\n  python -m fluxflow_exp -m seed=0,1"),
    ],
)
def test_one_mistake_gets_one_line_with_a_hint(text, hint):
    assert hint in one(text)


def test_a_folder_of_groups_that_is_not_there_is_said(tmp_path):
    assert override_problems(["seed=1"], config_dir=str(tmp_path)) == []
    (problem,) = override_problems(["seed=1"], config_dir=str(tmp_path / "nowhere"))
    assert problem == f"--config-dir {tmp_path / 'nowhere'}: there is no such folder"


def test_several_mistakes_are_all_reported():
    found = override_problems(["model.activaton=silu", "hardware=h20", "seed=1", "optimizer.lrr=3"])
    assert len(found) == 3


@pytest.mark.parametrize(
    "lines",
    [
        ["optimizer@stage.steps.vae.optimizers.vae=rmsprop"],
        ["stage.steps.flow.n_epochs=5"],
        ["~stage.steps.vae_gan"],
        ["stage=full", "data=image_folder", "data.data_path=x", "data.captions_file=y"],
        ["optimizer@stage.steps.vae.optimizers.vae=as_run"],
        ['samples.sample_captions=["a (b), c"]'],
        ['+hydra.launcher.additional_parameters.mail-type="END,FAIL"'],
        ["stage=flow_cfg", "stage.steps.flow.init_from=outputs/x"],
    ],
)
def test_what_is_right_passes(lines):
    assert override_problems(lines) == []


@pytest.mark.parametrize("words", [["seed=0,1,2", "model.activation=bezier,silu"], ["stage=vae,vae_gan"]])
def test_several_values_are_right_for_a_sweep(words):
    assert override_problems(words, multirun=True) == []
    (line,) = override_problems(["hardware=cpu,h20"], multirun=True)
    assert "there is no hardware named 'h20'" in line


def test_a_key_that_a_later_choice_of_a_sweep_lacks_is_said():
    (line,) = override_problems(["stage=vae,vae_gan", "stage.steps.vae.n_epochs=1"], multirun=True)
    assert line.startswith("stage.steps.vae.n_epochs=1: there is no key 'stage.steps.vae.n_epochs' with stage=vae_gan")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data=multi", "data.img_size=64"], "data.img_size=64: there is no key 'data.img_size' with data=multi"),
        (
            ["stage=vae_gan", "stage.steps.vae.n_epochs=1"],
            "stage.steps.vae.n_epochs=1: there is no key 'stage.steps.vae.n_epochs' with stage=vae_gan; "
            "did you mean 'stage.steps.vae_gan.n_epochs'?",
        ),
    ],
)
def test_a_key_that_the_chosen_group_lacks_is_not_offered(words, expected):
    assert override_problems(words) == [expected]


@pytest.mark.parametrize(
    ("key", "text"),
    [("name", "1e3"), ("name", "007"), ("name", "null"), ("name", "true"), ("tracking.project", "1.10")],
)
def test_a_text_stays_as_it_was_typed(key, text):
    config = compose_config([f"{key}={text}", "tracking=off"])
    assert OmegaConf.select(config, key) == text
    assert compose_config(["tracking.notes=null"]).tracking.notes is None


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/a", "a/", "a" * 201])
def test_a_name_that_can_be_no_folder_is_refused(name):
    values = resolve(compose_config(["hardware=cpu"]))
    assert problems({**values, "name": "007"}) == []
    (line,) = problems({**values, "name": name})
    assert line.startswith(f"name={name!r} cannot be a folder")


@pytest.mark.parametrize(
    ("words", "config_dir", "expected"),
    [
        (
            ["hydra/launcher=slurm"],
            None,
            "hydra/launcher (Slurm) starts jobs, which takes -m:\n  {} hydra/l",
        ),
        (["hydra/launcher=slurm_local", "seed=1"], None, "hydra/launcher (SlurmLocal) starts jobs"),
        (
            ["+sweep=seeds"],
            "multirun_templates",
            "this is a sweep (seed=0,1,2,3,4), which takes -m:\n  {}",
        ),
        (["hydra.mode=MULTIRUN"], None, "hydra.mode is set, which takes -m"),
        (["hydra/launcher=in_process"], None, None),
    ],
)
def test_what_acts_under_m_alone_stops_without_it(words, config_dir, expected):
    found = main._problems(words, config_dir and str(ROOT / config_dir), multirun=False)
    assert len(found) == (expected is not None)
    assert all(expected.format("python -m fluxflow_exp -m") in line for line in found)
    if "hydra.mode=MULTIRUN" not in words:
        assert main._problems(words, config_dir and str(ROOT / config_dir), multirun=True) == []


def test_the_runs_optimizer_reaches_every_player_and_a_steps_own_wins():
    values = resolve(
        compose_config(["optimizer=sgd", "optimizer.lr=0.5", "optimizer@stage.steps.vae.optimizers.vae=rmsprop"])
    )
    steps = values["stage"]["steps"]
    assert steps["flow"]["optimizers"]["flow"]["_target_"] == "torch.optim.SGD"
    assert steps["flow"]["optimizers"]["flow"]["lr"] == 0.5
    assert steps["vae"]["optimizers"]["vae"]["_target_"] == "torch.optim.RMSprop"
    assert steps["vae_gan"]["schedulers"]["discriminator"]["_target_"] == "fluxflow_exp.schedules.cosine"


def test_every_value_of_a_sweep_is_looked_at() -> None:
    swept = ["seed=0,x,1,y", "data.img_size=32,64", "samples.sample_captions=[a],[b,c]"]
    found = override_problems(swept, multirun=True)
    assert [line.partition(": ")[0] for line in found] == ["seed=x", "seed=y"]
    assert override_problems(["seed=range(0,30)", "optimizer.lr=1e-3,1e-4"], multirun=True) == []
