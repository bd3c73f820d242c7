"""The file of a study: read, changed on the command line, and refused in words."""

from pathlib import Path

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.study import command
from fluxflow_exp.study.fields import TRIAL_SEED
from fluxflow_exp.study.spec import Spec, load, shipped

FIVE = """\
question: Does a smaller batch rebuild better?
base: [stage=vae, hardware=cpu, data.n_images=64]
arms: {large: stage.steps.vae.batch_size=32, small: stage.steps.vae.batch_size=8}
outcome: val_psnr
seeds: 2
"""


def study(folder: Path, text: str = FIVE, *words: str, name: str = "mine.yaml") -> Spec:
    path = folder / name
    path.write_text(text)
    return load(str(path), list(words))


def problems(folder: Path, text: str, *words: str) -> str:
    with pytest.raises(UserError) as told:
        study(folder, text, *words)
    return str(told.value)


def test_five_lines_are_a_study(tmp_path: Path) -> None:
    spec = study(tmp_path)
    assert (spec.name, spec.reference, spec.folder) == ("mine", "large", Path("outputs/mine"))
    assert spec.arms["small"] == ["stage.steps.vae.batch_size=8"]
    assert (spec.outcome, spec.seeds, spec.equal, spec.where) == (["val_psnr"], [0, 1], "nothing", "here")


def test_words_change_the_study_or_all_of_its_arms(tmp_path: Path) -> None:
    spec = study(
        tmp_path,
        FIVE,
        "seeds=[4,7]",
        "where=slurm",
        "budget.gpu_hours=2",
        "data.n_images=32",
        "output_root=o",
        "name=n",
    )
    assert (spec.seeds, spec.where, spec.gpu_hours) == ([4, 7], "slurm", 2.0)
    assert spec.base == ["stage=vae", "hardware=cpu", "data.n_images=32"]
    assert spec.folder == Path("o/n")
    assert study(tmp_path, FIVE, "seeds=auto", "budget.runs=20").seeds is None
    assert "auto ends by smallest_difference or by budget" in problems(tmp_path, FIVE, "seeds=auto")


def test_what_jobs_share_is_not_the_study_s_to_say(tmp_path: Path) -> None:
    assert study(tmp_path).side_by_side == 1
    assert study(tmp_path, FIVE, "side_by_side=3").side_by_side == 3
    assert "side_by_side is for where: here" in problems(tmp_path, FIVE, "side_by_side=2", "where=slurm")
    assert "side_by_side: a whole number above 0 is wanted, not 0" in problems(tmp_path, FIVE, "side_by_side=0")


def test_an_arm_is_left_out_by_its_name(tmp_path: Path) -> None:
    three = FIVE.replace("small:", "64: stage.steps.vae.batch_size=64, small:")
    assert list(study(tmp_path, three, "arms.64=null").arms) == ["large", "small"]
    assert study(tmp_path, three, "arms.64=[seed_of=3]").arms["64"] == ["seed_of=3"]
    said = problems(tmp_path, three, "arms.smal=null")
    assert said == "arms.smal=null: there is no arm 'smal'; did you mean 'small'? There are: large, 64, small"
    assert study(tmp_path, three, "budget.runs=null").runs is None


def test_a_folder_brings_its_groups_along(tmp_path: Path) -> None:
    study(tmp_path, name="study.yaml")
    spec = load(str(tmp_path), [])
    assert (spec.name, spec.config_dir) == (tmp_path.name, str(tmp_path))


def test_learning_rates_are_chosen_on_seeds_that_judge_nothing(tmp_path: Path) -> None:
    rates = study(tmp_path, FIVE, "learning_rates=[1e-3, 2e-3]").learning_rates
    assert rates
    assert (rates.rates, rates.metric, rates.seeds) == ([1e-3, 2e-3], "val_psnr", [TRIAL_SEED])
    assert "1 judge the arms as well" in problems(tmp_path, FIVE, "learning_rates={rates: [1e-3, 2e-3], seeds: [1]}")
    assert "learning_rates chooses optimizer.lr" in problems(
        tmp_path, FIVE, "learning_rates=[1e-3, 2e-3]", "optimizer.lr=1"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("outcome: val_psnr\n", ""), "outcome is missing"),
        (("seeds: 2", "sedes: 2"), "there is no key 'sedes'; did you mean 'seeds'?"),
        (("seeds: 2", "repeats: 2"), "there is no key 'repeats'. There are: question, base, arms"),
        (("seeds: 2", "name: mine"), "there is no key 'name': say name=… on the command line"),
        (("small:", "off:"), "YAML reads off and no as false: put such a name in quotes"),
        (("seeds: 2", "seeds: [1, 1]"), "seeds: a number of them, a list of different ones, or auto is wanted"),
        (("seeds: 2", "where: there"), "where is one of here, slurm, slurm_local, not 'there'"),
        (("seeds: 2", "equal: size"), "equal is one of nothing, parameters, flops, memory, time, not 'size'"),
        (("seeds: 2", "budget: {hours: 3}"), "budget: there is no key 'hours'"),
        (("seeds: 2", "budget: {runs: 0}"), "budget.runs: a whole number above 0 is wanted, not 0"),
        (("seeds: 2", "smallest_difference: much"), "smallest_difference: a number above 0 is wanted, not 'much'"),
        (("batch_size=8", "batch_size=32"), "large and small are the same"),
        (("hardware=cpu", "seed=3"), "seed=3: the study's `seeds` sets it"),
        (("hardware=cpu", "hydra/launcher=slurm"), "`where` of the study says how jobs are started"),
        (("hardware=cpu", "cpu"), "base: 'cpu' is no override"),
        (("small:", "'sm all':"), "arms: 'sm all': letters"),
        (("small:", "large:"), "no YAML of a study: line 3, column 46: large stands twice"),
        (("hardware=cpu", "stage=vae"), "base: stage stands 2 times"),
        (("seeds: 2", "learning_rates: [1e-3, 0.001]"), "learning_rates: a rate stands twice"),
        (("seeds: 2", "learning_rates: [1e-3]"), "learning_rates: a list of two rates or more is wanted"),
        (("seeds: 2", "learning_rates: [1e-3, null]"), "learning_rates: a list of two rates or more is wanted"),
        (("arms: {large: stage.steps.vae.batch_size=32, ", "arms: {"), "arms: two or more are wanted"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    assert told in problems(tmp_path, FIVE.replace(*change))


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    said = problems(tmp_path, FIVE.replace("seeds: 2", "where: there\nequal: size\n"))
    assert "where is one of" in said
    assert "equal is one of" in said


def test_mistyped_keys_keep_no_wrong_value_from_being_told(tmp_path: Path) -> None:
    wrong = FIVE.replace("seeds: 2", "sedes: 2\nwhere: there").replace("outcome: val_psnr\n", "")
    lines = problems(tmp_path, wrong, "equall=size", "seeds=none").splitlines()
    told = ["no key 'sedes'", "outcome is missing", "no key 'equall'", "where is one of", "seeds: a number of them"]
    assert len(lines) == len(told)
    assert all(said in line for said, line in zip(told, lines, strict=True)), lines


def test_mistakes_of_the_study_and_of_its_arms_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        FIVE.replace("seeds: 2", "equal: size\nlearning_rates: [1e-3]").replace("val_psnr", "val_psn")
    )
    with pytest.raises(UserError) as told:
        command._loaded(command._parser().parse_args([str(tmp_path / "mine.yaml"), "data.n_images=-1"]))
    equal, rates, images, outcome = (line.partition(": ")[2] for line in told.value.args)
    assert equal.startswith("equal is one of")
    assert rates.startswith("learning_rates: a list of two rates")
    assert images.startswith("data.n_images must be ")
    assert outcome.startswith("outcome val_psn: there is no such held-out metric")


def test_a_name_that_is_nearly_one_is_answered_with_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study 'tooy'; did you mean 'toy'"):
        load("tooy", [])
    assert "toy" in shipped()
    study(tmp_path, name="rate.yaml")
    (tmp_path / "rat.log").touch()
    for near, told in (("rat.yaml", "rate.yaml"), ("rate", "rate.yaml"), ("toy.yaml", "toy")):
        with pytest.raises(UserError, match=f"there is no study '.*{near}'; did you mean '{told}'"):
            load(near if near == "toy.yaml" else str(tmp_path / near), [])


@pytest.mark.parametrize(
    ("word", "told"),
    [("sedes=5", "seeds"), ("arm.small=null", "arms"), ("learning_rate=[1e-3, 2e-3]", "learning_rates")],
)
def test_a_word_that_is_nearly_a_key_of_the_study_is_answered_with_it(tmp_path: Path, word: str, told: str) -> None:
    said = problems(tmp_path, FIVE, word)
    assert said == f"{word}: there is no key {word.split('=')[0].split('.')[0]!r}; did you mean {told!r}?"
    assert study(tmp_path, FIVE, "batch_size=3", "+arm=3").base[-2:] == ["batch_size=3", "+arm=3"]


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    assert "mine.yaml is no YAML" in problems(tmp_path, "question: [")
    said = problems(tmp_path, FIVE.replace("Does a", "Batch: does a"))
    assert "line 1, column 16: mapping values are not allowed here. Quotes keep a text with a colon" in said
    assert "keys of a study are wanted" in problems(tmp_path, "- a\n- b\n")
