"""Runs that would mislead are refused, by run, key and values."""

from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.compare import command as compare
from tests.helpers.studies import BATCH, GPU, Make, command, make_run, study


def versions(*digests: str) -> dict[str, Any]:
    return {"my_tv.TV": [{"file": "my_tv.py", "sha256": digest} for digest in digests]}


def test_runs_of_unequal_length_are_refused(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0])
    path = make("silu", 0, [1.0, 2.0], updates=(10, 20))
    assert compare.main(command(path.parent)) == 2
    said = capsys.readouterr().err
    assert f"images end at 240 in {path.with_name('bezier-0')}; 160 in {path}. --at 160 compares" in said
    assert not (path.parent / "comparison").exists()
    assert compare.main(command(path.parent, "--at", "160")) == 0
    assert "val_psnr at 160 images" in capsys.readouterr().out


def test_a_run_that_is_not_finished_is_refused(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0])
    path = make("silu", 0, [1.0, 2.0, 3.0], finished=False)
    assert compare.main(command(path.parent)) == 2
    said = capsys.readouterr().err
    assert f"{path} is not finished: its last held-out row is at 240 images" in said
    assert "--at 240 compares where all have been" in said


@pytest.mark.parametrize(
    ("kind", "key", "values", "change"),
    [
        ("data", "data.n_images", ("80", "90"), {"config": {"data.n_images": 90}}),
        ("data", "stage.steps.vae.data", ("null", "first"), {"config": {"stage.steps.vae.data": "first"}}),
        ("data", "data of step vae", ("1111", "2222"), {"record": {"data": {"vae": "2222"}}}),
        ("config", "optimizer.lr", ("0.001", "0.002"), {"config": {"optimizer.lr": 2e-3}}),
        ("config", "model.expander.activation", ("bezier", "gelu"), {"config": {"model.expander.activation": "gelu"}}),
        ("config", "hardware.devices", ("2", "4"), {"config": {"hardware.devices": 4}}),
        ("code", "commit", ("a" * 40, "b" * 40), {"record": {"commit": "b" * 40}}),
        ("code", "changed code", ("null", "abc"), {"record": {"changed_code": "abc"}}),
        ("code", "code of my_tv.TV", ("1111", "2222"), {"record": {"own_code": versions("2222")}}),
        ("code", "code of my_tv.TV", ("1111", "1111, then 2222"), {"record": {"own_code": versions("1111", "2222")}}),
        ("code", "torch", ("2.11", "2.12"), {"record": {"made_with": {"machine": GPU, "torch": "2.12"}}}),
    ],
)
def test_what_else_differs_is_refused_unless_allowed(
    make: Make, capsys: pytest.CaptureFixture[str], kind: str, key: str, values: tuple[str, str], change: dict[str, Any]
) -> None:
    first = make("bezier", 0, [1.0, 2.0, 3.0], record={"data": {"vae": "1111"}, "own_code": versions("1111")})
    second = make("silu", 0, [1.0, 2.0, 3.0], **change)
    others = ",".join({"data", "code", "config"} - {kind})
    assert compare.main(command(first.parent, "--allow", others)) == 2
    said = capsys.readouterr().err
    assert f"{key}" in said
    assert f"{values[0]} in {first}; {values[1]} in {second}" in said
    assert f"--allow {kind} " in said
    assert compare.main(command(first.parent, "--allow", kind)) == 0
    assert f"these runs differ in more than model.activation, which was allowed: {key}" in capsys.readouterr().out
    assert "which was allowed" in (first.parent / "comparison" / "comparison.md").read_text()


def test_own_code_of_a_run_that_recorded_none_is_unknown(make: Make) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0], record={"own_code": versions("1111")})
    path = make("silu", 0, [1.0, 2.0, 3.0])
    assert compare.main(command(path.parent)) == 0


def test_where_most_runs_are_alike_the_odd_one_is_named(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = study(make, [1.0, 2.0], [1.0, 2.0])
    odd = make("silu", 2, [1.0, 2.0, 3.0], config={"data.n_images": 90})
    assert compare.main(command(root)) == 2
    assert (
        f"data.n_images: 90 in {odd}; 80 in the 4 others. Only model.activation may differ" in capsys.readouterr().err
    )


def test_weights_that_changed_between_two_starts_are_refused(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0], record={"upstream": {"vae.safetensors": "1" * 64}})
    path = make("silu", 0, [1.0, 2.0, 3.0], record={"upstream": {"vae.safetensors": "2" * 64}})
    assert compare.main(command(path.parent)) == 2
    assert "weights in vae.safetensors: 1111111111111111 in" in capsys.readouterr().err


def test_names_places_and_pictures_may_differ(make: Make) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0], config={"samples": {"count": 2}, "output_root": "a", "cache": {"path": "a"}})
    path = make(
        "silu", 0, [1.0, 2.0, 3.0], config={"samples": {"count": 4}, "output_root": "b", "cache": {"path": "b"}}
    )
    assert compare.main(command(path.parent)) == 0


@pytest.mark.parametrize(
    ("key", "may"),
    [("metrics", True), ("raw", True), ("images", False), ("every_epochs", False), ("features", False)],
)
def test_further_metrics_may_differ_and_what_decides_the_values_may_not(make: Make, key: str, may: bool) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0], config={"evaluation": {key: 1}})
    path = make("silu", 0, [1.0, 2.0, 3.0], config={"evaluation": {key: 2}})
    assert compare.main(command(path.parent)) == (0 if may else 2)


def test_steps_that_a_run_lacks_are_one_line_behind_what_matters_more(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    step = {"batch_size": BATCH, "data": None, "trainer": {"kl": {"weight": 1.0}, "spade": "never"}}
    short = make("bezier", 0, [1.0, 2.0, 3.0], config={"data.n_images": 90, "model.text": None})
    config = {"stage.name": "full", "stage.steps.gan": step, "stage.steps.flow": step, "model.text": {"width": 2}}
    long = make("silu", 0, [1.0, 2.0, 3.0], config=config, finished=False)
    assert compare.main(command(short.parent)) == 2
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert [line.partition(".")[0].partition(":")[0] for line in lines[1:4]] == [
        f"- {long} is not finished", f"- steps gan and flow are only in {long}", "- stage",
    ]  # fmt: skip
    assert lines[4].startswith("- data.n_images: 90 in")
    assert any(line.startswith(f"- model.text is only in {long}. Only model.activation") for line in lines)
    assert "trainer" not in " ".join(lines)


def test_the_machine_may_differ_where_time_does_not_count(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0])
    path = make("silu", 0, [1.0, 2.0, 3.0], record={"made_with": {"machine": GPU, "torch": "2.11"}})
    assert compare.main(command(path.parent)) == 0
    assert "not all runs were made on one kind of machine" in capsys.readouterr().out
    assert compare.main(command(path.parent, "--budget", "seconds")) == 2
    assert "machine (run.json): CPU" in capsys.readouterr().err


def test_a_choice_of_model_brings_all_that_is_in_it(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate in (("tiny", 1e-3), ("compact", 2e-3)):
        model = {"name": name, "vae_dim": int(rate * 4000), "learning_rate": rate}
        path = make(name, 0, [1.0, 2.0, 3.0], config={"model": model, "optimizer.lr": rate})
    words = [str(path.parent), "--by", "model.name", "--metric", "val_psnr"]
    assert compare.main(words) == 0
    assert "keys that follow model.name: 2 of model.*, optimizer.lr" in capsys.readouterr().out


def test_files_of_a_config_group_are_compared_by_its_name(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    steps, same = "stage.steps.vae.optimizers", {"model.activation": "silu", "model.expander.activation": "silu"}
    for seed in (0, 1):
        for file, extra in (("adamw", {"betas": [0.9, 0.99]}), ("sgd", {"momentum": 0.9, "nesterov": True})):
            node = {"_target_": file, "lr": 1e-3, **extra}
            config = {"choices": {"optimizer": file, "model": "tiny"}, "optimizer": node, steps: {"vae": node}}
            path = make(file, seed, [1.0, 2.0, 3.0 + seed], config={**same, **config})
    words = [str(path.parent), "--by", "optimizer", "--metric", "val_psnr"]
    assert compare.main(words) == 0
    said = capsys.readouterr().out
    assert "val_psnr at 240 images, by optimizer" in said
    assert "keys that follow optimizer: 4 of optimizer.*, 4 of stage.steps.*.optimizers.*" in said
    own = {"_target_": "rmsprop", "lr": 1e-3}  # a player that does not follow its run is another difference
    make("odd", 2, [1.0, 2.0, 3.0], config={**same, **config, steps: {"vae": own}})
    assert compare.main(words) == 2
    assert "stage.steps.vae.optimizers.vae._target_: " in capsys.readouterr().err


def test_a_run_from_before_a_key_of_evaluation_has_its_default(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("bezier", 0, [1.0, 2.0, 3.0], config={"evaluation": {"steps": 25}})
    path = make("silu", 0, [1.0, 2.0, 3.0], config={"evaluation": {"steps": 25, "sampler": "euler", "shift": None}})
    assert compare.main(command(path.parent)) == 0
    make("gelu", 0, [1.0, 2.0, 3.0], config={"evaluation": {"steps": 25, "sampler": "ab2"}})
    assert compare.main(command(path.parent)) == 2
    said = capsys.readouterr().err
    assert "evaluation.sampler: " in said
    assert "ab2 in " in said


def test_many_differences_are_counted_not_listed(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    first = make("bezier", 0, [1.0, 2.0, 3.0], config={f"data.k{i}": 0 for i in range(20)})
    make("silu", 0, [1.0, 2.0, 3.0], config={f"data.k{i}": 1 for i in range(20)})
    assert compare.main(command(first.parent)) == 2
    said = capsys.readouterr().err
    assert said.startswith("9 problems:")
    assert "12 further keys differ" in said


def test_mistakes_in_the_question_are_said(make: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = study(make, [20.2, 21.3], [20.0, 21.0])
    for words, answer in [
        ([root, "--by", "model.activaton", "--metric", "val_psnr"], "no such key; did you mean 'model.activation'?"),
        ([root, "--by", "model", "--metric", "val_psnr"], "--by model is a section; name one key of it: model.name"),
        ([root, "--by", "seed", "--metric", "val_psnr"], "seeds are what is averaged over"),
        ([root, "--by", "model.vae_dim", "--metric", "val_psnr"], "all 4 runs have vae_dim=4; two values"),
        (command(root, metric="val_psn"), "did you mean 'val_psnr'? There are: val_psnr"),
        (command(root, "--reference", "slu"), "there is no such group; did you mean 'silu'? The groups: bezier, silu"),
        (command(root, "--allow", "data,luck"), "--allow luck: choose of data, code, config"),
        (command(root, "--effect", "-1"), "--effect must be above 0, not -1"),
        (command(root, "--out", root / "silu-0" / "run.json"), "this is a file, and a folder is wanted"),
        (command(root, "--at", "250"), "was measured from 80 to 240 images, and not at 250"),
        (command(tmp_path / "nowhere"), f"there is no file or folder {tmp_path / 'nowhere'}"),
    ]:
        assert compare.main([str(word) for word in words]) == 2, words
        assert answer in capsys.readouterr().err
    assert not (root / "comparison").exists()


def test_one_run_alone_is_no_comparison(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(command(make("bezier", 0, [1.0, 2.0, 3.0]))) == 2
    assert "there is one run, with bezier; two values make a comparison" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "graph/training_metrics_vae.jsonl"])
def test_a_damaged_file_of_a_run_is_named(make: Make, capsys: pytest.CaptureFixture[str], name: str) -> None:
    root = study(make, [20.2], [20.0])
    damaged = root / "silu-0" / name
    damaged.write_text("{half a file\n")
    assert compare.main(command(root)) == 2
    assert str(damaged) in capsys.readouterr().err


def test_two_runs_of_one_group_and_seed_are_refused(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = study(make, [20.2], [20.0])
    again = make_run(root / "again", "silu", 0, [1.0, 2.0, 3.0])
    assert compare.main(command(root)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: 2 runs are silu with seed=0: {again}, {root / 'silu-0'}. Leave one out")
    again = make_run(root / "again", "silu", 0, [1.0, 2.0, 3.0], config={"data.n_images": 90})
    assert compare.main(command(root)) == 2
    differing = f"data.n_images: 90 in {again}; 80 in {root / 'silu-0'}. So 2 runs are silu with seed=0: {again}, "
    assert capsys.readouterr().err.startswith(f"error: {differing}")
    again.rename(again.with_name("silu-0.old-1"))  # moved aside: it does not count any more
    assert compare.main(command(root)) == 0
