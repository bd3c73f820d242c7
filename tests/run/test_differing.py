"""What is told of a run that is another one than a command asks for, and the words that lead back to it."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import opening, refusals, states
from fluxflow_exp.run.differing import Differing, leading
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import identity_differences


def made(*words: str, **choices: str) -> dict[str, Any]:
    """What a command of these words asks for, which has chosen `choices` of groups."""
    return {**resolve(compose_config(list(words))), "choices": choices}


def differing(now: dict[str, Any], there: dict[str, Any], *words: str) -> Differing:
    return Differing.of(identity_differences(now, there), now, there, words)


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
    there, now = made(*begun), made(*asked)
    words = [word for each in differing(now, there).words_back() for word in shlex.split(each)]
    assert len(words) == len(begun) - len(asked)
    assert identity_differences(made(*asked, *words), there) == {}


def test_words_for_the_run_that_is_there_are_those_of_all_its_parts_and_steps() -> None:
    """One of two keys with the same values does not bring the other one along."""
    begun = ["model.compressor.widths=[8,16,24]", "stage.steps.vae.batch_size=8", "stage.steps.vae_gan.batch_size=8"]
    there = made(*begun)
    words = [word for each in differing(made(), there, *begun).words_back() for word in shlex.split(each)]
    assert identity_differences(made(*words), there) == {}


def test_many_differences_that_no_word_explains_are_another_run() -> None:
    found = differing(made("model=compact"), made("model=tiny"))
    assert found.words_back() == []
    lines = found.tell().splitlines()
    assert lines[8].startswith("    and ")
    assert len(lines) == 10  # eight, how many more, and how many follow


def test_a_step_that_one_run_lacks_is_a_line() -> None:
    base = made("stage=vae")
    one, both = (
        {**base, "stage": {"steps": steps}}
        for steps in ({"vae": {"n_epochs": 2}}, {"vae": {"n_epochs": 2}, "flow": {"n_epochs": 1, "batch_size": 4}})
    )
    assert differing(both, one).tell() == "    stage.steps.flow: asked alone"
    assert differing(one, both).tell() == "    stage.steps.flow: there alone"


def test_what_was_chosen_and_given_comes_before_what_follows_and_leads_back() -> None:
    there = made("model=tiny", "model.activation=silu", model="tiny", optimizer="adamw")
    now = made("model=compact", "seed=3", model="compact", optimizer="adamw")
    words = ["model=tiny", "model.activation=silu", "model=compact", "seed=3", "hardware=cpu"]
    found = differing(now, there, *words)
    lines = found.tell().splitlines()
    assert lines[:4] == [
        "    model: 'tiny' there, 'compact' asked",
        "    model.activation: 'silu' there, 'bezier' asked",
        "    seed: 0 there, 3 asked",
        "    optimizer.lr: 0.002 there, 0.0003 asked",  # the model's own
    ]
    assert len(lines) == 5
    assert " keys that follow, e.g. model." in lines[4]
    back = found.words_back()
    assert back == ["model=tiny", "model.activation=silu", "seed=0", "optimizer.lr=0.002"]
    again = shlex.split(" ".join(back))
    assert identity_differences(made("model=compact", "seed=3", *again), there) == {}


def test_a_group_that_a_chosen_file_chooses_follows_it() -> None:
    there, now = (
        {"model": "tiny", "model/text_encoder": "byte_tiny"},
        {"model": "compact", "model/text_encoder": "byte"},
    )
    found = differing(made("model=compact", **now), made("model=tiny", **there), "model=compact")
    assert list(found.groups) == ["model"]
    found = differing(made("model=compact", **now), made("model=tiny", **there), "model/text_encoder=byte")
    assert list(found.groups) == ["model", "model/text_encoder"]


def test_a_refusal_and_a_stale_job_name_the_words_first(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    there = made("model=tiny", "data.img_size=48", model="tiny")
    opening.create(folder, there, ["model=tiny", "data.img_size=48", "name=run"])
    now = made("model=compact", model="compact")
    with pytest.raises(UserError) as refused:
        refusals.refuse_other(folder, now)
    said = str(refused.value).splitlines()[1:]
    assert said[0] == "    model: 'tiny' there, 'compact' asked"
    assert said[1].startswith("    data.img_size: 48 there, ")
    assert len(said) <= 6
    assert states.inspect(folder, now).note.startswith("model: 'tiny' there, 'compact' now; data.img_size: 48 there, ")


def test_of_keys_that_follow_another_one_that_one_is_told() -> None:
    found = {"model.activation": ("silu", "relu"), "model.expander.activation": ("silu", "relu"),
             "model.flow.activation": ("gelu", "relu"), "seed": (0, 1)}  # fmt: skip
    assert list(leading(found)) == ["model.activation", "model.flow.activation", "seed"]
