"""From one published file to images: the command, the Python call, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fluxflow_exp import __version__, files, pipeline
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import digests
from fluxflow_exp.generate import command
from fluxflow_exp.generate.command import parser
from fluxflow_exp.generate.drawing import generate
from fluxflow_exp.machine.hardware import PRECISIONS
from fluxflow_exp.models import weights
from fluxflow_exp.models.text_to_image import TextToImage, places
from fluxflow_exp.samplers import SAMPLERS
from tests.conftest import toy
from tests.helpers.infotexts import read_back


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    pipeline.run(toy(root))
    return root / "quickstart"


@pytest.fixture(scope="module")
def final(run: Path) -> Path:
    return run / "weights" / "final.safetensors"


def options(final: Path, prompts: Path, output: Path, *more: str) -> list[str]:
    paths = ["--model_checkpoint", str(final), "--text_prompts_path", str(prompts), "--output_path", str(output)]
    return [*paths, "--steps", "3", "--device", "cpu", *more]


def test_a_file_of_prompts_becomes_images_and_a_grid(final: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n\na blue star\n")
    command = options(
        final, tmp_path / "p.txt", tmp_path / "out", "--use_cfg", "--n_per_prompt", "2", "--size", "24x16",
        "--sampler", "ab2", "--guidance_interval", "0", "0.8", "--shift", "0.7",
    )  # fmt: skip
    generate(parser().parse_args(command))
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    stems = ["000_a-red-circle_0", "000_a-red-circle_1", "001_a-blue-star_0", "001_a-blue-star_1"]
    assert names == sorted(f"{s}_gen.webp" for s in stems), "nothing but the images"
    with Image.open(tmp_path / "out_grid.webp") as grid:
        assert grid.width == 4 * (96 + 6)
        assert grid.height > 64 + 2 * 15, "the images, and what they are"
    first, second = (Image.open(tmp_path / "out" / f"{s}_gen.webp") for s in stems[:2])
    assert first.size == (24, 16)
    assert first.tobytes() != second.tobytes()


def test_images_with_captions_are_data_for_training(final: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n\na blue star\na red circle\n")
    folder = tmp_path / "out"
    generate(parser().parse_args(options(final, tmp_path / "p.txt", folder, "--captions", "--n_per_prompt", "4")))
    data = ImageFolder(data_path=str(folder), captions_file=str(folder / "metadata.jsonl"), validation_fraction=0.5)
    names = {entry.id: entry.caption for source in (data.train, data.validation) for entry in source.entries}
    assert len(names) == 12
    assert all(("blue" in name) == (caption == "a blue star") for name, caption in names.items())
    assert not any("caption" in note for note in data.notes)


PROMPT = 'ein roter „Kreis", 🎈\nSteps: 9, "x"\n日本'


@pytest.fixture(scope="module")
def in_formats(final: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Two images of PROMPT, two of a plain prompt, and the grid, in each format."""
    root = tmp_path_factory.mktemp("formats")
    (root / "prompts").mkdir()
    (root / "prompts" / "a.txt").write_text(PROMPT, encoding="utf-8")
    (root / "prompts" / "b.txt").write_text("a blue star")
    more = ["--use_cfg", "--negative_prompt", 'grün, "matt"', "--guidance_interval", "0", "0.8", "--shift", "0.7"]
    more += ["--n_per_prompt", "2", "--size", "24x16", "--seed", "7"]
    for form in ("webp", "png", "jpg"):
        generate(parser().parse_args(options(final, root / "prompts", root / form, *more, "--format", form)))
    stems = ("a_0_gen", "a_1_gen", "b_0_gen", "b_1_gen")
    forms = ("webp", "png", "jpg")
    return {form: [*(root / form / f"{stem}.{form}" for stem in stems), root / f"{form}_grid.{form}"] for form in forms}


def test_each_format_holds_the_same_picture(in_formats: dict[str, list[Path]]) -> None:
    for webp, png, jpg in zip(*in_formats.values(), strict=True):
        a, b, c = (Image.open(path).convert("RGB") for path in (webp, png, jpg))
        assert (Image.open(png).format, Image.open(jpg).format) == ("PNG", "JPEG")
        lossless = not webp.stem.endswith("_grid")
        assert (a.tobytes() == b.tobytes()) is lossless
        assert a.size == c.size
        assert sum(abs(x - y) for x, y in zip(b.tobytes(), c.tobytes(), strict=True)) < 4 * len(b.tobytes())


@pytest.mark.parametrize("form", ["webp", "png", "jpg"])
def test_a_picture_says_how_it_was_made(form: str, in_formats: dict[str, list[Path]], final: Path) -> None:
    digest = digests.of_tensors(TextToImage.load(final).state_dict())
    first, second, other, _, grid = in_formats[form]
    expected = (
        f'{PROMPT}\nNegative prompt: grün, "matt"\nSteps: 3, Sampler: euler, CFG scale: 5, Guidance interval: 0 0.8, '
        f"Shift: 0.7, Size: 24x16, Seed: 7, Seed index: 0, Model hash: {files.digest(final)}, "
        f"Model: final.safetensors, Weights: ema, Weights digest: {digest}, Precision: fp32, "
        f"Version: fluxflow_exp {__version__}"
    )
    assert read_back(first) == expected
    assert read_back(second) == expected.replace("Seed index: 0", "Seed index: 1")
    assert read_back(other) == expected.replace(PROMPT, "a blue star")
    assert read_back(grid) is None


def test_the_same_command_writes_the_same_bytes(final: Path, tmp_path: Path) -> None:
    """And what was not asked for stands in the metadata as what was done."""
    (tmp_path / "p.txt").write_text("a red circle\n")
    for form in ("webp", "png", "jpg"):
        for time in range(2):
            generate(parser().parse_args(options(final, tmp_path / "p.txt", tmp_path / "out", "--format", form)))
            path = tmp_path / "out" / f"000_a-red-circle_gen.{form}"
            path.rename(tmp_path / f"{time}.{form}")
        assert (tmp_path / f"0.{form}").read_bytes() == (tmp_path / f"1.{form}").read_bytes()
        shift = str(TextToImage.load(final).objective.shift).removesuffix(".0")
        line = (
            f"Steps: 3, Sampler: euler, CFG scale: 1, Shift: {shift}, Size: 16x16, Seed: 0, Seed index: 0, Model hash"
        )
        assert (read_back(tmp_path / f"0.{form}") or "").startswith(f"a red circle\n{line}")


def test_raw_weights_have_a_digest_of_their_own(final: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n")
    for kind in ("ema", "raw"):
        generate(parser().parse_args(options(final, tmp_path / "p.txt", tmp_path / kind, "--weights", kind)))
    ema, raw = ((read_back(tmp_path / k / "000_a-red-circle_gen.webp") or "").split(", ") for k in ("ema", "raw"))
    differing = [(x.split(":")[0], y.split(":")[0]) for x, y in zip(ema, raw, strict=True) if x != y]
    assert differing == [("Weights", "Weights"), ("Weights digest", "Weights digest")]


def test_a_format_or_a_prompt_that_cannot_be_written_is_refused_before_the_model_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_text("x" * 30_999 + "\n" + "ü" * 31_001)
    command = options(tmp_path / "none", tmp_path / "p.txt", tmp_path / "out", "--format")
    with pytest.raises(SystemExit):
        parser().parse_args([*command, "gif"])
    assert "argument --format: invalid choice: 'gif' (choose from" in capsys.readouterr().err
    with pytest.raises(UserError, match="--format: 001_: the metadata of a jpg hold 31,000 characters of prompts, not"):
        generate(parser().parse_args([*command, "jpg"]))
    with pytest.raises(UserError, match="--model_checkpoint"):
        generate(parser().parse_args([*command, "png"]))


def test_places_count_equal_prompts() -> None:
    assert places(["a", "b", "a", "a", "b"]) == [0, 0, 1, 2, 1]


def test_the_grid_stands_beside_the_folder_however_it_is_named(
    final: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n")
    (tmp_path / "in" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in" / "here")
    for given, grid in ((".", "in/here_grid.webp"), ("new/er/", "in/here/new/er_grid.webp"), ("..", "in_grid.webp")):
        generate(parser().parse_args(options(final, tmp_path / "p.txt", Path(given))))
        assert (tmp_path / grid).is_file()
        assert f"1 image in {Path(given)}, together in " in capsys.readouterr().out
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"and {tmp_path} cannot be written: name a folder inside it, as .*/out/images"):
        generate(parser().parse_args(options(Path("no.safetensors"), tmp_path / "p.txt", tmp_path / "out")))


def test_no_image_takes_the_name_of_another(final: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts").mkdir()
    for name in ("cat", "cat_1", "cat_1_1"):
        (tmp_path / "prompts" / f"{name}.txt").write_text("a cat\n")
    generate(parser().parse_args(options(final, tmp_path / "prompts", tmp_path / "out", "--n_per_prompt", "3")))
    found = {path.name.removesuffix("_gen.webp") for path in (tmp_path / "out").glob("*_gen.webp")}
    assert found == {f"{name}_{number}" for name in ("cat", "cat_1", "cat_1_1") for number in range(3)}
    assert "9 images" in capsys.readouterr().out


def test_an_image_is_the_same_in_any_batch(final: Path) -> None:
    model = TextToImage.load(final)
    prompts = ["a red circle", "a blue star", "a green ring", "a red circle"]
    whole = torch.cat(list(model.generate(prompts, steps=4, guidance_scale=3.0, batch_size=4))).int()
    alone = torch.cat(list(model.generate(prompts, steps=4, guidance_scale=3.0, batch_size=1))).int()
    assert (whole - alone).abs().max() <= 1
    other = torch.cat(list(model.generate(prompts[1:2], steps=4, guidance_scale=3.0))).int()
    assert (whole[1:2] - other).abs().max() <= 1
    assert (whole[0] - whole[3]).abs().max() > 1


def test_seed_guidance_negative_prompt_and_sampler_matter(final: Path) -> None:
    model = TextToImage.load(final)

    def image(**more: object) -> torch.Tensor:
        return next(iter(model.generate(["a red circle"], steps=4, **{"guidance_scale": 3.0, **more})))  # type: ignore[arg-type]

    base = image()
    assert torch.equal(base, image())
    changes = [{"seed": 1}, {"guidance_scale": 1.0}, {"negative_prompt": "blue"}, {"sampler": "heun"}]
    changes += [{"sampler": "ab2"}, {"shift": 0.5}, {"guidance_interval": [0.0, 0.5]}]
    for change in changes:
        assert not torch.equal(base, image(**change)), change
    assert torch.equal(base, image(guidance_interval=(0.0, 1.0), shift=model.objective.shift))
    assert torch.equal(image(guidance_scale=1.0), image(guidance_scale=1.0, guidance_interval=[0.0, 0.5]))


def test_outside_of_the_interval_guidance_costs_nothing(final: Path) -> None:
    """Of ten steps, times 1 to 0.1, those in (0.2, 0.8] are six: 10 + 6 evaluations instead of 20."""
    model, calls = TextToImage.load(final), []
    model.flow_processor.register_forward_pre_hook(lambda *_: calls.append(1))
    for interval, expected in (((0.2, 0.8), 16), (None, 20)):
        calls.clear()
        options = {"steps": 10, "sampler": "ab2", "guidance_scale": 3.0, "guidance_interval": interval}
        next(iter(model.generate(["a red circle"], **options)))
        assert len(calls) == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"guidance_interval": [0.8, 0.2]}, "guidance_interval is two times"),
        ({"shift": 0.0}, "shift must be a positive number"),
        ({"sampler": "rk4"}, "sampler is one of euler, heun, ab2"),
    ],
)
def test_what_sampling_cannot_do_is_said(final: Path, option: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(iter(TextToImage.load(final).generate(["a red circle"], **option)))  # type: ignore[arg-type]


def test_three_lines_of_python_give_pil_images(final: Path) -> None:
    images = TextToImage.load(final)(["a red circle"], steps=2)
    assert isinstance(images[0], Image.Image)
    assert images[0].size == (16, 16)


def test_raw_weights_come_from_the_file_beside_it(final: Path, tmp_path: Path) -> None:
    raw = TextToImage.load(final, kind="raw").state_dict()
    averaged = TextToImage.load(final).state_dict()
    assert any(not torch.equal(raw[k], averaged[k]) for k in raw)
    alone = tmp_path / "final.safetensors"
    alone.write_bytes(final.read_bytes())
    assert TextToImage.load(alone)(["one file is enough"], steps=1)
    with pytest.raises(ValueError, match=r"flow\.raw\.safetensors|vae_gan\.raw\.safetensors"):
        TextToImage.load(alone, kind="raw")


def test_guidance_on_a_model_without_caption_dropout_warns(
    final: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = weights.read_facts(final)
    facts["flow"]["cfg_dropout_prob"] = 0.0
    save_file(load_file(final), tmp_path / "f.safetensors", {weights.KEY: json.dumps(facts)})
    (tmp_path / "p.txt").write_text("a red circle\n")
    generate(
        parser().parse_args(options(tmp_path / "f.safetensors", tmp_path / "p.txt", tmp_path / "out", "--use_cfg"))
    )
    assert "trained without caption dropout" in capsys.readouterr().err


def test_files_that_are_not_ours_are_refused_by_name(final: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for path, message in (
        (tmp_path / "none.safetensors", "there is no file"),
        (tmp_path / "text.safetensors", "not a whole safetensors file"),
        (tmp_path / "foreign.safetensors", "was not published by fluxflow_exp"),
        (run / "weights" / "vae.safetensors", "holds no flow_processor"),
        (run, "is a folder; name the file"),
    ):
        with pytest.raises(ValueError, match=message):
            TextToImage.load(path)


def test_metadata_cannot_build_what_is_not_a_model_of_this_package(final: Path, tmp_path: Path) -> None:
    for target, inner in (("os.system", {}), ("fluxflow_exp.models.flow.FlowProcessor", {"_target_": "os.system"})):
        facts = weights.read_facts(final)
        facts["model"]["flow_processor"] = {"_target_": target, "command": inner or "echo harm"}
        save_file(load_file(final), tmp_path / "f.safetensors", {weights.KEY: json.dumps(facts)})
        with pytest.raises(ValueError, match="refusing to build flow_processor"):
            TextToImage.load(tmp_path / "f.safetensors")


def test_another_format_is_refused(final: Path, tmp_path: Path) -> None:
    facts = {**weights.read_facts(final), "format": 99}
    save_file(load_file(final), tmp_path / "f.safetensors", {weights.KEY: json.dumps(facts)})
    with pytest.raises(ValueError, match="weights format 99"):
        TextToImage.load(tmp_path / "f.safetensors")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--size", "17x16"], "multiples of"),
        (["--output_path", "FILE/out"], "cannot write"),
        (["--text_prompts_path", "nowhere"], "there is no file or folder nowhere"),
    ],
)
def test_unusable_options_are_one_clear_error(final: Path, tmp_path: Path, more: list[str], message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "p.txt").write_text("a red circle\n")
    more = [m.replace("FILE", str(tmp_path / "file")) for m in more]
    with pytest.raises(UserError, match=message):
        generate(parser().parse_args(options(final, tmp_path / "p.txt", tmp_path / "out", *more)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guidance_scale", "7"], "--guidance_scale acts with --use_cfg alone"),
        (["--guidance_scale", "5"], "--guidance_scale acts with --use_cfg alone"),
        (["--negative_prompt", "blue"], "--negative_prompt acts with --use_cfg alone"),
        (["--guidance_interval", "0", "0.8"], "--guidance_interval acts with --use_cfg alone"),
        (["--use_cfg", "--guidance_interval", "0.8", "0"], "--guidance_interval is two times from 0"),
        (["--shift", "0"], "--shift must be a positive number, not 0.0"),
        (["--use_cfg", "--guidance_scale", "nan"], "--guidance_scale must be a number of at least 0, not nan"),
        (["--use_cfg", "--guidance_scale", "-1"], "--guidance_scale must be a number of at least 0, not -1.0"),
    ],
)
def test_guidance_acts_or_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        generate(parser().parse_args(options(tmp_path / "none", tmp_path / "none", tmp_path / "out", *words)))


def test_the_help_is_told_without_torch_and_names_what_there_is() -> None:
    code = "import sys; from fluxflow_exp.generate import command; command.parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sorted(SAMPLERS) == list(command.SAMPLERS)
    assert sorted(PRECISIONS) == list(command.PRECISIONS)
