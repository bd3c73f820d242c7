"""A comparison says what runs show, in words that are right for either direction.

Covers compare/groups, differences, metrics, flops and output as well.
"""

import json
from pathlib import Path

import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.benchmark.measurement import measure
from fluxflow_exp.compare import command as compare
from fluxflow_exp.compare.pairs import plain
from fluxflow_exp.report import command as report
from fluxflow_exp.run.folder import RunFolder
from tests.conftest import toy
from tests.helpers.studies import Make, command, study


def test_a_difference_is_told_with_its_paired_interval(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    # Differences 0.2, 0.3, 0.4: mean 0.3, half width 4.303 · 0.1 / √3 = 0.248.
    root = study(make, [20.2, 21.3, 22.4], [20.0, 21.0, 22.0])
    assert compare.main(command(root, "--reference", "silu")) == 0
    said = capsys.readouterr().out
    assert "val_psnr at 240 images, by model.activation (higher is better)" in said
    assert "bezier is better than silu by 0.30 dB (95 % interval 0.05 to 0.55, 3 paired seeds)" in said
    assert "keys that follow model.activation: model.expander.activation" in said
    facts = json.loads((root / "comparison" / "comparison.json").read_text())
    (pair,) = facts["pairs"]
    assert (pair["reference"], pair["other"], pair["paired"]) == ("silu", "bezier", True)
    assert pair["correction"] is None
    assert pair["difference"] == pytest.approx(0.3)
    assert pair["interval"] == pytest.approx([0.3 - 0.248414, 0.3 + 0.248414], abs=1e-5)


def test_of_a_loss_less_is_better(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = study(make, [20.2, 21.3, 22.4], [20.0, 21.0, 22.0], metric="val_l1")
    assert compare.main(command(root, metric="val_l1")) == 0
    said = capsys.readouterr().out
    assert "(lower is better)" in said
    assert "silu is better than bezier by 0.30 (95 % interval 0.05 to 0.55, 3 paired seeds)" in said


def test_a_metric_whose_name_does_not_tell_needs_its_direction(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = study(make, [20.2, 21.3, 22.4], [20.0, 21.0, 22.0], metric="val_beauty")
    assert compare.main(command(root, metric="val_beauty")) == 2
    assert "--better higher|lower" in capsys.readouterr().err
    assert compare.main(command(root, "--better", "lower", metric="val_beauty")) == 0
    assert "silu is better than bezier by 0.30 " in capsys.readouterr().out


def test_noise_is_not_distinguishable_and_says_how_many_seeds_would_be(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    root = study(make, [20.5, 21.0, 21.9], [20.0, 21.3, 22.0])  # differences 0.5, -0.3, -0.1
    assert compare.main(command(root, "--effect", "0.2")) == 0
    # Spread 0.4163, so d = 0.480; the normal distribution asks for (2.80 / 0.480)² = 34, Student's for two more.
    said = capsys.readouterr().out
    assert "bezier and silu are not distinguishable at 3 paired seeds (bezier is ahead by 0.03 dB, " in said
    assert "95 % interval -1.00 to 1.07); about" in said
    assert "about 36 of each would show a difference of 0.20 dB in four of five tries" in said
    assert compare.main(command(root, "--effect", "5")) == 0
    assert "these would have shown a difference of 5.0 dB" in capsys.readouterr().out


def test_an_end_of_the_interval_that_is_below_zero_does_not_look_like_zero(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    # Differences 0.147, 0.247, 0.347: half width 0.2484.
    root = study(make, [20.147, 21.247, 22.347], [20.0, 21.0, 22.0])
    assert compare.main(command(root)) == 0
    said = capsys.readouterr().out
    assert "(bezier is ahead by 0.247 dB, 95 % interval -0.001 to 0.495)" in said
    assert "would show a difference of 0.247 dB in" in said  # the same number has the same digits


def test_equal_runs_are_equal(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(command(study(make, [20.0, 21.0], [20.0, 21.0]))) == 0
    assert "bezier and silu are equal to the last digit (2 paired seeds)" in capsys.readouterr().out


def test_runs_that_all_differ_alike_have_no_interval(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(command(study(make, [20.5, 21.5], [20.0, 21.0]))) == 0
    said = capsys.readouterr().out
    assert "bezier is ahead of silu by 0.50 dB (2 paired seeds: no interval, since all seeds differ alike; " in said


def test_one_seed_has_no_interval(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = study(make, [20.5], [20.0])
    assert compare.main(command(root)) == 0
    said = capsys.readouterr().out
    assert "bezier is ahead of silu by 0.50 dB (1 paired seed: no interval" in said
    assert "95 % interval" not in said
    facts = json.loads((root / "comparison" / "comparison.json").read_text())
    assert facts["pairs"][0]["interval"] is None
    assert facts["groups"][0]["band"]["half_width"] is None


def test_other_seeds_are_not_paired(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1, 2):
        make("bezier", seed, [18.0, 19.0, 20.0 + 0.1 * seed])
        path = make("silu", seed + 1, [18.0, 19.0, 20.0 + 0.1 * seed])
    assert compare.main(command(path.parent)) == 0
    assert "not distinguishable at 3 and 3 seeds, not paired" in capsys.readouterr().out


def test_three_groups_make_three_pairs_from_the_reference_on(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    for activation, shift in (("bezier", 1.0), ("gelu", 2.0), ("silu", 3.0)):
        for seed in (0, 1, 2):
            path = make(activation, seed, [18.0, 19.0, 20.0 + shift + 0.01 * seed * shift])
    assert compare.main(command(path.parent, "--reference", "silu")) == 0
    said = capsys.readouterr().out
    assert "the 3 pairs are judged together (Holm)" in said
    assert said.count("95 % interval, Holm-corrected for 3 pairs,") == 3
    facts = json.loads((path.parent / "comparison" / "comparison.json").read_text())
    assert [(pair["reference"], pair["other"]) for pair in facts["pairs"]] == [
        ("silu", "bezier"), ("silu", "gelu"), ("bezier", "gelu"),
    ]  # fmt: skip
    assert all(pair["p_adjusted"] >= pair["p"] and pair["confidence"] >= 0.95 for pair in facts["pairs"])
    assert compare.main(command(path.parent, "--reference", "silu", "--pairs", "reference")) == 0
    assert capsys.readouterr().out.count("95 % interval, Holm-corrected for 2 pairs,") == 2
    facts = json.loads((path.parent / "comparison" / "comparison.json").read_text())
    assert [pair["correction"] for pair in facts["pairs"]] == ["Holm, 2 pairs"] * 2


def test_the_report_is_written_where_it_is_asked_for(make: Make, tmp_path: Path) -> None:
    root = study(make, [20.2, 21.3, 22.4], [20.0, 21.0, 22.0])
    out = tmp_path / "elsewhere"
    assert compare.main(command(root, "--out", str(out))) == 0
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "comparison.md").read_text()
    assert "**bezier is better than silu by 0.30 dB" in text
    assert f"| {root / 'silu-1'} | silu | 1 | 21 | 240 |" in text
    assert "--metric val_psnr" in text
    band = json.loads((out / "comparison.json").read_text())["groups"][1]["band"]
    assert band["budget"] == [80, 160, 240]
    assert band["mean"] == pytest.approx([19.0, 20.0, 21.0])
    assert band["half_width"] == pytest.approx([4.302653 / 3**0.5] * 3)  # seeds are 1 apart
    assert not (root / "comparison").exists()


def test_a_page_of_another_comparison_beside_it_is_named(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = study(make, [20.2, 21.3], [20.0, 21.0]), tmp_path / "a folder"
    said, page = [], out / "comparison.html"
    for words in [[], ["--budget", "updates"], ["--effect", "1"]]:
        assert compare.main(command(root, "--out", str(out), *words)) == 0
        said.append(capsys.readouterr().out)
        if not words:
            report.write_comparison([RunFolder(path) for path in sorted(root.glob("*-*"))], page)
    assert "comparison.html" not in said[0]
    assert "comparison.html" not in said[1]  # the same sentence of the same runs
    again = f"python -m fluxflow_exp.report {root} --output '{page}' draws it again"
    assert f"Note: {page} is of val_psnr at 240 images, by model.activation (higher is better); {again}" in said[2]


@pytest.mark.parametrize(
    ("value", "scale", "shown"),
    [(0.3149, 0.19, "0.31"), (123.4, 25, "123"), (-0.001, 0.5, "0.00"), (0.00123, 0.004, "0.0012")],
)
def test_numbers_have_the_digits_that_count(value: float, scale: float, shown: str) -> None:
    assert plain(value, scale) == shown


def test_real_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for activation in ("bezier", "silu"):
        words = [f"model.activation={activation}", f"name={activation}", "stage.steps.vae.n_epochs=2"]
        pipeline.run(toy(tmp_path, *words, "stage.steps.vae.batch_size=8", stage="vae"))
    runs = [str(tmp_path / name) for name in ("bezier", "silu")]
    capsys.readouterr()
    asked = ["--by", "model.activation", "--metric", "val_psnr"]
    assert compare.main([*runs, *asked]) == 0
    said = capsys.readouterr().out
    assert "val_psnr at 64 images" in said  # 2 epochs of 32
    last = {
        name: json.loads((tmp_path / name / "summary.json").read_text())["metrics"]["val_psnr"]
        for name in ("bezier", "silu")
    }
    ahead = max(last, key=lambda name: last[name])
    assert f"{ahead} is ahead of" in said
    facts = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert {group["name"]: group["mean"] for group in facts["groups"]} == pytest.approx(last)
    assert "model.expander.activation" in facts["following_keys"]
    assert facts["unlike"] == []
    assert compare.main([*runs, *asked, "--budget", "tflop"]) == 0
    assert capsys.readouterr().out.count("Counting the work of an update") == 2  # a model each
    facts = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    values = RunFolder(tmp_path / "bezier").frozen()
    benchmarked = measure(values, updates=2)["steps"]["vae"]["tflop"]
    (curve,) = [run["curve"] for run in facts["groups"][0]["runs"]]
    assert curve["budget"] == pytest.approx([4 * benchmarked, 8 * benchmarked])  # after an epoch of four updates each
