"""What makes a run the same run, and what leads back to one."""

import shlex

import pytest

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.run.identity import identity_differences, tell, words_back


def config(**changes):
    base = {
        "model": {"name": "tiny", "vae_dim": 4},
        "data": {"data_path": "/a", "img_size": 32},
        "stage": {"steps": {"vae": {"n_epochs": 2, "freeze": []}}},
        "optimizer": {"lr": 0.1},
        "scheduler": {},
        "seed": 0,
        "hardware": {"device": "cpu"},
        "log_every": 10,
    }
    return {**base, **changes}


def test_identity_is_model_data_stage_optimizer_scheduler_and_seed():
    assert identity_differences(config(), config()) == {}
    assert identity_differences(config(hardware={"device": "cuda"}, log_every=1), config()) == {}
    assert identity_differences(config(data={"data_path": "/moved", "img_size": 32}), config()) == {}
    assert identity_differences(config(seed=1, optimizer={"lr": 0.2}), config()) == {
        "seed": (0, 1),
        "optimizer.lr": (0.1, 0.2),
    }
    assert identity_differences(config(model={"name": "tiny"}), config()) == {"model.vae_dim": (4, "(absent)")}


@pytest.mark.parametrize(
    "begun",
    [
        ["~model.flow_processor.absolute_positions"],  # as runs of model=tiny were that had no such key
        ["optimizer=muon", 'optimizer.hidden=["*.blocks.*.weight"]', 'optimizer.other=["*.modulation.*"]'],
        ["+data.n_validation=8", "model.activation=silu", "seed=3", "stage.steps.vae.max_updates=2"],
    ],
)
def test_few_words_ask_for_the_run_that_is_there(begun: list[str]) -> None:
    asked = [word for word in begun if word == "optimizer=muon"]
    there, now = (resolve(compose_config(words)) for words in (begun, asked))
    words = [word for each in words_back(identity_differences(now, there)) for word in shlex.split(each)]
    assert len(words) == len(begun) - len(asked)
    assert identity_differences(resolve(compose_config([*asked, *words])), there) == {}


def test_many_differences_are_another_run() -> None:
    there, now = (resolve(compose_config([f"model={name}"])) for name in ("tiny", "compact"))
    assert words_back(identity_differences(now, there)) == []


def test_a_step_that_one_run_lacks_is_a_line():
    steps = {"vae": {"n_epochs": 2, "freeze": [], "max_updates": None}, "flow": {"n_epochs": 1, "batch_size": 4}}
    mine, theirs = config(stage={"steps": steps}), config()
    told = ["    stage.steps.flow: asked alone", "    stage.steps.vae.max_updates: (absent) there, null asked"]
    assert tell(identity_differences(mine, theirs)).split("\n") == told
    assert "    stage.steps.flow: there alone" in tell(identity_differences(theirs, mine))
