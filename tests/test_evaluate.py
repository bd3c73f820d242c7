"""A trained run measured: by the command and while it trains, with the same numbers, each with its provenance.

Covers evaluation/evaluator, held_out and published_model as well.
"""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp import evaluate, files, pipeline
from fluxflow_exp.compare import command as compare
from fluxflow_exp.config.schema import Hardware
from fluxflow_exp.evaluation import measures, record
from fluxflow_exp.evaluation.copies import through
from fluxflow_exp.evaluation.held_out import data_of
from fluxflow_exp.evaluation.published_model import AUTOENCODER, Subject
from fluxflow_exp.machine.hardware import prepare
from fluxflow_exp.models import weights
from fluxflow_exp.models.text_to_image import TextToImage
from fluxflow_exp.report.command import write_card
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.samplers import SAMPLERS
from tests.conftest import toy
from tests.helpers.networks import small_timm, tiny_clip
from tests.helpers.packages import skip_without

skip_without("torchmetrics")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_timm(tmp_path_factory.mktemp("features") / "resnet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, features: Path) -> Path:
    root = tmp_path_factory.mktemp("measured")
    measured = [
        "evaluation.metrics=[psnr,ssim,rfd,fd,kid,copies]",
        "evaluation.raw=true",
        f"evaluation.features={features}",
    ]
    short = ["~stage.steps.vae_gan", "stage.steps.vae.max_updates=3", "stage.steps.flow.max_updates=3"]
    pipeline.run(toy(root, *measured, *short, "evaluation.prompts=8", "samples.every_epochs=null"))
    return root / "quickstart"


def measure(source: Path, *words: str, out: Path) -> list[dict[str, Any]]:
    assert evaluate.main([str(source), *words, "--device", "cpu", "--json", str(out)]) == 0
    found: list[dict[str, Any]] = files.read_json(out)["results"]
    return found


def rows(run: Path, step: str, kind: str) -> dict[str, float]:
    return [row["metrics"] for row in read_rows(RunFolder(run).metrics(step)) if row["kind"] == kind][-1]


def test_the_command_finds_what_the_run_logged(run: Path, features: Path, tmp_path: Path) -> None:
    options = ["--metrics", "psnr", "ssim", "rfd", "flow", "--raw", "--images", "8", "--features", str(features)]
    for each in measure(run, *options, out=tmp_path / "out.json"):
        logged = rows(run, each["step"], "held_out" if each["ema"] else "held_out_raw")
        assert each["value"] == pytest.approx(logged[f"val_{each['metric']}"], rel=1e-5), each


def test_while_training_raw_weights_have_rows_of_their_own(run: Path) -> None:
    for step, expected in (
        ("vae", {"val_l1", "val_psnr", "val_ssim", "val_rfd"}),
        ("flow", {"val_flow", "val_fd", "val_kid", "val_copies", "val_copies_held_out", "prompt_accuracy"}),
    ):
        averaged, raw = rows(run, step, "held_out"), rows(run, step, "held_out_raw")
        assert expected <= set(averaged) == set(raw)
        changed = [name for name in expected if averaged[name] != raw[name]]
        assert len(changed) >= 3, (averaged, raw)


def test_every_number_carries_its_provenance_and_stands_in_the_run(
    run: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "TELLS", 1.01)  # no share is as much
    clip = tiny_clip(tmp_path / "clip")
    options = ["--guidance", "1", "4", "--raw", "--images", "8", "--clip", str(clip), "--features", str(features)]
    found = measure(run, *options, "--seed", "7", out=tmp_path / "out.json")
    shares = {f"prompt_accuracy{more}" for more in ("", "_kind", "_colour", "_ground")}
    sets = {"fd", "kid", "precision", "recall", "retrieval_1", "retrieval_5", "copies", "copies_held_out"}
    samples = {*sets, "clip_score", *shares}
    assert {r["metric"] for r in found} == {"psnr", "ssim", "rfd", "flow", *samples}
    said = capsys.readouterr().out
    assert "left out: ms_ssim: needs images of 176 pixels a side, and these have 16" in said
    assert "left out: lpips: " in said
    assert "\nprecision and recall say little of what is drawn here: " in said
    assert "recall say little" in write_card(RunFolder(run)).read_text(encoding="utf-8")
    seen = record.read(run / "evaluations" / "final.json")
    assert {(r.metric, r.guidance, r.ema, r.value) for r in seen if r.seed in (7, None)} == {
        (r["metric"], r["guidance"], r["ema"], r["value"]) for r in found
    }
    for each in seen:
        if each.seed not in (7, None):
            continue
        assert (each.seed is None) == (each.metric in ("psnr", "ssim", "rfd"))
        assert (each.n, each.img_size, each.update, each.precision, each.device, each.data) == (
            8, 16, 3, "fp32", "CPU", [],
        )  # fmt: skip
        assert each.guidance in ((1.0, 4.0) if each.metric in samples else (None,))
        assert each.sampler == ("euler, 2 steps" if each.metric in samples else None)
        assert each.step == ("vae" if each.metric in ("psnr", "ssim", "rfd") else "flow")
        assert each.implementation == measures.implementation(each.metric)
        assert (each.features or {}).get("name") == {
            "rfd": "resnet", **dict.fromkeys(sets, "resnet"), "clip_score": "clip",
        }.get(each.metric)  # fmt: skip
        assert (each.reconstructed is None) == (each.metric not in ("precision", "recall"))
        assert (each.chance is None) == ("retrieval" not in each.metric)
        assert (each.training or {}).get("name") == ("32 of 32" if "copies" in each.metric else None)
        assert (each.nearest is None) == (each.metric != "copies")
        assert len(each.weights_digest) == len(each.reference_digest) == 64
    # Digests tell apart weights, and images from images with captions; nothing else.
    digests = {(r.ema, r.step): r.weights_digest for r in seen}
    assert len(set(digests.values())) == 4
    assert len({r.reference_digest for r in seen}) == 2


def test_a_model_that_returns_its_training_pictures_is_called_out_and_shown(
    run: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    trained = data_of(RunFolder(run).frozen(), "flow", []).train
    originals = torch.stack([trained.read(place, random.Random(0)).image for place in range(8)])  # type: ignore[union-attr]
    machine = prepare(Hardware(name="cpu", device="cpu", precision="fp32"), computes=False)
    parts = Subject(run).load(AUTOENCODER, machine.device)
    samples = through(parts["compressor"], parts["expander"], machine)(originals)
    words = ["--metrics", "copies", "--images", "8", "--guidance", "2", "--features", str(features)]
    for drawn, mirrored in ((samples, False), (samples.flip(3), True)):
        monkeypatch.setattr(TextToImage, "generate", lambda *_, drawn=drawn, **__: iter([drawn]))
        found = {each["metric"]: each for each in measure(copied, *words, out=tmp_path / "out.json")}
        assert (found["copies"]["value"], found["copies_held_out"]["value"]) == (1, 1 / 8)
        pairs = found["copies"]["nearest"]["pairs"]
        assert {pair["mirrored"] for pair in pairs if pair["sample"] != pair["training"]} <= {mirrored}
        assert [pair["distance"] for pair in pairs] == [0] * len(pairs)
        said = capsys.readouterr().out
        assert "guidance 2, averaged weights: copies found: 8 of 8 samples are as near to a training picture" in said
    shown = {pair[key] for pair in pairs for key in ("sample", "training")}
    assert {path.name for path in (copied / "evaluations").glob("*.webp")} == shown, "those of the first go"
    page = write_card(RunFolder(copied)).read_text(encoding="utf-8")
    assert "Closest training images" in page
    assert "copies found: 8 of 8 samples" in page
    assert page.count("; <code>train") == len(pairs)
    monkeypatch.setattr(TextToImage, "generate", lambda *_, **__: iter([torch.zeros_like(samples)]))
    (value, _) = (each["value"] for each in measure(copied, *words, out=tmp_path / "out.json"))
    assert value == 0


def test_another_seed_or_guidance_makes_other_samples(run: Path, features: Path, tmp_path: Path) -> None:
    words = ["--metrics", "fd", "flow", "--images", "8", "--features", str(features), "--guidance", "1", "4"]
    one, again, other = (measure(run, *words, "--seed", seed, out=tmp_path / "out.json") for seed in ("0", "0", "1"))
    assert one == again
    flow, low, high = (r["value"] for r in one)
    assert low != high
    assert [r["value"] == before for r, before in zip(other, (flow, low, high), strict=True)] == [False] * 3


def test_samples_are_drawn_as_the_run_has_it_or_as_is_asked(run: Path, features: Path, tmp_path: Path) -> None:
    words = ["--metrics", "fd", "--images", "8", "--features", str(features), "--guidance", "1", "4"]
    interval = ["--guidance-interval", "0", "0.6"]
    every = [
        measure(run, *words, *more, out=tmp_path / "out.json")
        for more in ([], interval, [*interval, "--sampler", "ab2", "--shift", "0.5"], ["--guidance-interval", "0", "1"])
    ]
    assert [[r["sampler"] for r in each] for each in every] == [
        ["euler, 2 steps"] * 2,
        ["euler, 2 steps", "euler, 2 steps, guidance from 0 to 0.6"],
        ["ab2, 2 steps, shift 0.5", "ab2, 2 steps, guidance from 0 to 0.6, shift 0.5"],
        ["euler, 2 steps"] * 2,
    ]
    usual, within, other, whole = ([r["value"] for r in each] for each in every)
    assert usual == whole
    assert usual[0] == within[0] != other[0]
    assert len({usual[1], within[1], other[1]}) == 3
    assert "not the same sampler" in (record.comparable(*(record.Record(**each[1]) for each in every[:2])) or "")


def test_the_names_of_samplers_are_those_there_are() -> None:
    (option,) = (each for each in evaluate.parser()._actions if each.dest == "sampler")
    assert list(option.choices or ()) == list(SAMPLERS)


def test_an_earlier_step_is_measured_by_its_file(run: Path, tmp_path: Path) -> None:
    weights = run / "weights" / "vae.safetensors"
    (each,) = measure(weights, "--metrics", "psnr", "--images", "8", out=tmp_path / "out.json")
    assert each["value"] == pytest.approx(rows(run, "vae", "held_out")["val_psnr"], rel=1e-5)
    assert (each["step"], each["update"]) == ("vae", 3)
    assert (run / "evaluations" / "vae.json").exists()
    flow = run / "weights" / "flow.safetensors"
    assert [r["step"] for r in measure(flow, "--metrics", "flow", "--images", "8", out=tmp_path / "o.json")] == ["flow"]


def test_a_cpu_looks_through_many_training_pictures_where_that_is_asked_by_name(
    run: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "UNASKED", 31)
    words = ["--images", "8", "--guidance", "1", "--features", str(features)]
    assert "copies" not in {each["metric"] for each in measure(run, *words, out=tmp_path / "out.json")}
    assert "left out: copies: there are 32 training images, and no GPU: --metrics copies" in capsys.readouterr().out
    found = measure(run, *words, "--metrics", "copies", "--training-images", "20", out=tmp_path / "out.json")
    assert {each["training"]["name"] for each in found} == {"20 of 32"}


def test_retrieval_is_among_images_alike_where_that_is_asked(run: Path, features: Path, tmp_path: Path) -> None:
    words = ["--metrics", "retrieval_1", "--images", "8", "--guidance", "1", "--features", str(features)]
    (every,) = measure(run, *words, out=tmp_path / "out.json")
    (alike,) = measure(run, *words, "--within", r"on an? (\w+)", out=tmp_path / "out.json")
    assert (every["within"], alike["within"]) == (None, r"on an? (\w+)")
    assert alike["chance"] > every["chance"] == pytest.approx(1 / 8, abs=0.1)
    assert alike["value"] >= every["value"]
    reason = record.comparable(*(record.Record(**each) for each in (every, alike))) or ""
    assert "images to retrieve from" in reason


def test_other_data_are_said_with_the_number(run: Path, tmp_path: Path) -> None:
    (own,) = measure(run, "--metrics", "psnr", "--images", "8", out=tmp_path / "out.json")
    (other,) = measure(run, "data.seed=5", "--metrics", "psnr", "--images", "8", out=tmp_path / "out.json")
    assert (own["data"], other["data"]) == ([], ["data.seed=5"])
    assert own["reference_digest"] != other["reference_digest"]
    assert "held-out images" in (record.comparable(*(record.Record(**each) for each in (own, other))) or "")


def test_weights_outside_of_a_run_need_its_configuration(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "final.safetensors"
    shutil.copy(run / "weights" / "final.safetensors", alone)
    assert evaluate.main([str(alone), "--metrics", "psnr"]) == 2
    assert "add --config CONFIG" in capsys.readouterr().err
    words = ["--metrics", "psnr", "--images", "8"]
    (each,) = measure(alone, *words, "--config", str(run / "config.yaml"), out=tmp_path / "out.json")
    (own,) = measure(run, *words, out=tmp_path / "own.json")
    assert each == {**own, "update": None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "psrn"], "there is no metric 'psrn'; did you mean 'psnr'?"),
        (["--metrics", "ms_ssim"], "--metrics ms_ssim: needs images of 176 pixels a side, and these have 16"),
        (["--metrics", "clip_score"], "--metrics clip_score: no CLIP was given"),
        (["--metrics", "lpips", "--lpips-weights", "nowhere.pth"], "there is no file nowhere.pth"),
        (["--metrics", "rfd", "--images", "1"], "rfd compares sets of at least 2 images, not 1"),
        (["--images", "0"], "--images must be at least 1, not 0"),
        (
            ["--metrics", "psnr", "--guidance", "4"],
            "--guidance acts on fd, kid, precision, recall",
        ),
        (["--guidance", "1", "nan"], "--guidance nan is no number"),
        (["--training-images", "0"], "--training-images must be at least 1, not 0"),
        (["--within", "("], "--within '(' is no regular expression: missing )"),
        (["--within", "style", "--metrics", "fd"], "--within acts on retrieval_1, retrieval_5 alone"),
        (["--within", "cat", "--metrics", "retrieval_1", "--images", "8"], "--within 'cat' is found in no caption of"),
        (["--guidance", "1", "--guidance-interval", "0", "1"], "--guidance-interval acts on guidance other than 1"),
        (["--guidance-interval", "0.8", "0"], "--guidance-interval is two times from 0 (the picture) to 1 (noise)"),
        (["--metrics", "psnr", "--shift", "2"], "--shift acts on fd, kid, precision, recall"),
        (["--shift", "inf"], "--shift must be a positive number, not inf"),
        (
            ["--metrics", "psnr", "--steps", "4"],
            "--steps acts on fd, kid, precision, recall",
        ),
        (["--metrics", "flow", "--clip", "nowhere"], "--clip acts on clip_score alone, and none of these is measured"),
        (["--config", "nowhere.yaml"], "--config: there is no file nowhere.yaml"),
        (["seed=3", "--metrics", "psnr"], "seed=3: of a run's configuration only data can be overridden"),
        (["data.img_size=17", "--metrics", "psnr"], "data.img_size=17: this model takes multiples of 4 pixels a side"),
        (["data.sed=3", "--metrics", "psnr"], "data.sed: fluxflow_exp.data.shapes.Shapes takes no 'sed'"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_error(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(run), *words, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


def test_guidance_of_an_autoencoder_is_refused_with_the_reason(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(run / "weights" / "vae.safetensors"), "--guidance", "4", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "none of these is measured: " in said
    assert said.count("comes with no flow_processor and no text_encoder: name ") == 1


def test_what_an_autoencoder_alone_does_not_allow_is_said_once(
    run: Path, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = run / "weights" / "vae.safetensors"
    reason = f"{alone} comes with no flow_processor and no text_encoder: name {run / 'weights' / 'final.safetensors'}"
    assert evaluate.main([str(alone), "--metrics", "psnr", "fd", "retrieval_1", "--device", "cpu"]) == 2
    assert f"error: --metrics fd retrieval_1: {reason}\n" in capsys.readouterr().err
    measure(alone, "--images", "8", "--features", str(features), out=tmp_path / "out.json")
    said = capsys.readouterr().out
    without = [name for name, measure in measures.MEASURES.items() if measure.of != "reconstructions"]
    assert f"left out: {', '.join(without)}: {reason}\n" in said
    assert said.count("comes with no flow_processor") == 1
    assert said.index("left out: ") < said.index("metric "), "before what is measured"
    assert files.read_json(tmp_path / "out.json")["left_out"]["fd"] == reason


def test_the_run_is_named_first_and_what_puts_it_on_the_card_last(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in (run, run / "weights" / "vae.safetensors"):
        measure(source, "--metrics", "psnr", "--images", "70", out=tmp_path / "out.json")
        said = capsys.readouterr()
        name = "final" if source == run else "vae"
        assert said.out.startswith(f"EVALUATE: {run}, weights/{name}.safetensors\n")
        assert f"python -m fluxflow_exp.report {run} puts it on the card" in said.out
        # No terminal is there: a line for what is done instead of a bar, and no empty ones.
        assert said.err.splitlines() == ["Reading held-out images …", "Reconstructing, averaged weights …"]


def test_only_files_that_can_do_it_are_proposed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = run / "weights" / "vea.safetensors"
    assert evaluate.main([str(absent), "--metrics", "fd", "--device", "cpu"]) == 2
    able = " or ".join(str(absent.with_name(f"{name}.safetensors")) for name in ("final", "flow"))
    assert capsys.readouterr().err == f"error: there is no file {absent}: name {able}\n"


@pytest.mark.parametrize("text", ["hello\n", "model: [\n", "model: {}\nseed: 0\n"])
def test_what_is_no_configuration_of_a_run_is_refused(
    run: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(text)
    assert evaluate.main([str(run), "--metrics", "psnr", "--config", str(other)]) == 2
    assert str(other) in capsys.readouterr().err


def test_evaluations_that_are_not_whole_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "evaluations").mkdir(exist_ok=True)
    (copied / "evaluations" / "final.json").write_text("{")
    assert evaluate.main([str(copied), "--metrics", "psnr", "--images", "4", "--device", "cpu"]) == 2
    assert str(copied / "evaluations" / "final.json") in capsys.readouterr().err


def test_a_run_whose_weights_are_gone_is_not_said_to_be_unfinished(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("weights", "checkpoints"))
    assert evaluate.main([str(tmp_path / "run")]) == 2
    assert "vae, flow ended, and the weights are gone" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_said_in_the_commands_own_words(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert evaluate.main([str(run), "--metrics", "psnr", "--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert "--device cuda needs a CUDA GPU" in said
    assert "hardware=" not in said


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("../quikstart", "quikstart; did you mean 'quickstart'?"),
        ("config.yaml", "config.yaml is no .safetensors file: name"),
        ("weights/vae.raw.safetensors", "name vae.safetensors beside it, and add --raw"),
    ],
)
def test_what_is_no_published_model_is_refused(
    run: Path, source: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(run / source), "--metrics", "psnr"]) == 2
    assert message in capsys.readouterr().err


def test_raw_weights_that_were_not_kept_are_told_before_anything_is_measured(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = weights.read_facts
    monkeypatch.setattr(weights, "read_facts", lambda path: read(path) | {"best": {"flow": 2}})
    assert evaluate.main([str(run), "--metrics", "psnr", "--raw", "--images", "4", "--device", "cpu"]) == 0
    capsys.readouterr()
    assert evaluate.main([str(run), "--metrics", "psnr", "flow", "--raw", "--images", "4", "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert "of step flow at update 2, its best point, whose raw weights were not kept" in err
    assert "Reconstructing" not in out + err


def test_without_the_extra_one_error_says_what_to_install_and_psnr_is_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measures, "find_spec", lambda name: None)
    assert evaluate.main([str(run), "--device", "cpu"]) == 2
    assert 'pip install "fluxflow-exp[eval]"' in capsys.readouterr().err
    assert len(measure(run, "--metrics", "psnr", "flow", "--images", "8", out=tmp_path / "out.json")) == 2


def test_evaluations_are_compared_where_they_are_alike(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    record_there = RunFolder(other).frozen()
    record_there["model"]["activation"] = "silu"
    for part in ("compressor", "expander", "flow_processor"):
        record_there["model"][part]["activation"] = "silu"
    RunFolder(other).freeze(record_there)
    shutil.rmtree(other / "evaluations", ignore_errors=True)
    asked = [str(run), str(other), "--by", "model.activation", "--metric", "ssim", "--out", str(tmp_path / "out")]
    measure(run, "--metrics", "ssim", "--images", "8", out=tmp_path / "o.json")
    assert compare.main(asked) == 2
    assert "has no row of it" in capsys.readouterr().err
    measure(other, "--metrics", "ssim", "--images", "4", out=tmp_path / "o.json")
    assert compare.main(asked) == 2
    assert "not the same held-out images (or captions)" in capsys.readouterr().err
    shutil.rmtree(other / "evaluations")
    measure(other, "--metrics", "ssim", "--images", "8", out=tmp_path / "o.json")
    assert compare.main(asked) == 0
    said = capsys.readouterr().out
    assert "ssim at 24 images, by model.activation (higher is better)" in said
    print(said)
    facts = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [group["mean"] for group in facts["groups"]] == pytest.approx(
        [rows(run, "vae", "held_out")["val_ssim"]] * 2, rel=1e-5
    )
