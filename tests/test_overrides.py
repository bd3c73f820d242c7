"""Mistakes on the command line: all at once, with the nearest right name."""

import pytest

from fluxflow_exp.overrides import compose_config, override_problems, suggest_key


def one(text):
    problems = override_problems([text])
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("stage.steps.vae.n_epoch=3", "did you mean 'stage.steps.vae.n_epochs'?"),
        ("model.activaton=silu", "did you mean 'model.activation'?"),
        ("hardware=h20", "did you mean 'h200'?"),
        ("data=somewhere_else", "there is no data named 'somewhere_else'. The choices: image_folder"),
        ("optimizer@stage.steps.vae.optimizers.vae=rmspro", "did you mean 'rmsprop'?"),
        ("~stage.steps.vea", "did you mean 'stage.steps.vae'?"),
        ("activation=silu", "did you mean 'model.activation'?"),
        ("seed=abc", "seed=abc"),
        ("what is this", "is not an override"),
        ("+hydra.launcher.x.mail-type=END,FAIL", """'+hydra.launcher.x.mail-type="END,FAIL"'"""),
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
        ["seed=0,1,2", "model.activation=bezier,silu"],
        ['+hydra.launcher.additional_parameters.mail-type="END,FAIL"'],
        ["stage=flow_cfg", "stage.steps.flow.init_from=outputs/x"],
    ],
)
def test_what_is_right_passes(lines):
    assert override_problems(lines) == []


def test_the_nearest_key_may_stand_elsewhere():
    assert "'model.vae_dim'" in suggest_key("vae_dim", ["seed", "model.vae_dim"])
    assert suggest_key("zzz", ["seed"]) == ""


def test_the_runs_optimizer_reaches_every_player_and_a_steps_own_wins():
    from fluxflow_exp.config import resolve

    values = resolve(
        compose_config(["optimizer=sgd", "optimizer.lr=0.5", "optimizer@stage.steps.vae.optimizers.vae=rmsprop"])
    )
    steps = values["stage"]["steps"]
    assert steps["flow"]["optimizers"]["flow"]["_target_"] == "torch.optim.SGD"
    assert steps["flow"]["optimizers"]["flow"]["lr"] == 0.5
    assert steps["vae"]["optimizers"]["vae"]["_target_"] == "torch.optim.RMSprop"
    assert steps["vae_gan"]["schedulers"]["discriminator"]["_target_"] == "fluxflow_exp.schedules.cosine"
