"""What the plan of a run says of its steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import typed
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.mixture import Mixture
from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.data.stream import Streamed
from fluxflow_exp.errors import UserError
from fluxflow_exp.step_length import Length
from fluxflow_exp.step_plan import _left_out, cache_folder, step_lines
from tests.conftest import toy
from tests.helpers import autoencoders
from tests.helpers.networks import small_timm
from tests.helpers.text_encoders import save


def pictures(folder: Path) -> dict[str, str]:
    """A folder of 60 images, a third of each of three shapes; the arguments that read it."""
    (folder / "images").mkdir()
    for i in range(60):
        Image.new("RGB", [(40, 40), (80, 40), (40, 80)][i % 3]).save(folder / "images" / f"{i}.png")
    (folder / "captions.tsv").write_text("".join(f"{i}.png\tpicture {i}\n" for i in range(60)))
    return {"data_path": str(folder / "images"), "captions_file": str(folder / "captions.tsv")}


def test_how_many_samples_no_batch_can_hold_is_said(tmp_path: Path) -> None:
    data = ImageFolder(**pictures(tmp_path), img_size=64, buckets=2.0)
    assert _left_out(data, 4) == []
    (line,) = _left_out(data, 19)
    assert "a shape that fewer than 19 share" in line


def test_where_nothing_can_be_cached_auto_does_without_and_on_is_an_error(tmp_path: Path) -> None:
    options = pictures(tmp_path)
    shapes = Shapes(img_size=16, n_images=8, n_validation=8)
    cases = {
        "data.crop=random": ImageFolder(**options, img_size=16, crop="random"),
        "data.flip=true": ImageFolder(**options, img_size=16, flip=True),
        "a mixture": Mixture({"a": shapes, "b": shapes}, {"a": 1.0, "b": 1.0}),
        "streamed shards": SimpleNamespace(train=Streamed),
    }
    epoch = Length(updates=4, updates_per_epoch=4, batch_size=2, micro_batch=2)
    auto, on = (typed(toy(tmp_path, f"cache.mode={mode}", stage="flow")) for mode in ("auto", "on"))
    for reason, data in cases.items():
        folder, said = cache_folder(auto, "flow", data, epoch)
        assert folder is None
        assert reason in said
        with pytest.raises(UserError, match=rf"cache\.mode=on: step flow cannot.*{reason}"):
            cache_folder(on, "flow", data, epoch)
    assert cache_folder(auto, "flow", shapes, epoch) == (tmp_path / "cache", "")
    off = typed(toy(tmp_path, "cache.mode=off", stage="flow"))
    assert cache_folder(off, "flow", shapes, epoch) == (None, "")


def test_auto_does_not_encode_a_whole_set_for_less_than_an_epoch(tmp_path: Path) -> None:
    shapes = Shapes(img_size=16, n_images=8, n_validation=8)
    part = Length(updates=3, updates_per_epoch=4, batch_size=2, micro_batch=2)
    auto, on = (typed(toy(tmp_path, f"cache.mode={mode}", "cache.path=here", stage="flow")) for mode in ("auto", "on"))
    assert cache_folder(auto, "flow", shapes, part)[0] is None
    assert cache_folder(on, "flow", shapes, part) == (Path("here"), "")


def test_a_flow_step_names_its_own_loss_beside_others(tmp_path: Path) -> None:
    word = "+loss@stage.steps.flow.trainer.self_alignment=self_alignment"
    config = typed(toy(tmp_path, word, "model.flow_processor.depth=3", stage="flow"))
    size = Length(updates=4, updates_per_epoch=4, batch_size=2, micro_batch=2)
    lines = step_lines(1, "flow", config.stage.steps["flow"], size, 1, config.model)
    assert "    losses: flow, self_alignment; EMA 0.999" in lines


def test_the_plan_tells_only_activations_that_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(values: dict[str, Any]) -> str:
        pipeline.run({**values, "validate": True})
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  model: ")]
        return line.partition(": ")[2].strip().rpartition(": ")[0]

    autoencoders.save(tmp_path / "library")
    library = f"model.autoencoder.path={tmp_path / 'library'}"
    assert told(toy(tmp_path)) == "tiny, activation bezier"
    assert told(toy(tmp_path, "model.expander.activation=silu", stage="vae")) == (
        "tiny, activation of compressor bezier, activation of expander silu"
    )
    assert told(autoencoders.toy(tmp_path, "vae", library)) == "tiny"
    assert (
        told(autoencoders.toy(tmp_path, "vae_flow", library, "data.n_images=64"))
        == "tiny, activation of flow_processor bezier"
    )


def test_the_plan_says_which_weights_are_published_unless_they_are_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for choice, said in {
        "best": ["  Publishes: what step vae trains, at its best point"],
        "interpolated": ["  Publishes: what step vae trains, between its best point and its end"],
        "last": [],
    }.items():
        pipeline.run({**toy(tmp_path, f"publish.weights={choice}", stage="vae"), "validate": True})
        assert [line for line in capsys.readouterr().out.splitlines() if "Publishes" in line] == said


def test_the_plan_says_where_latents_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for override, said in {
        "cache.mode=auto": f"latents: encoded once, kept in {tmp_path / 'cache'}",
        "stage.steps.flow.max_updates=1": "latents: encoded at every update, since the step ends before",
    }.items():
        pipeline.run(toy(tmp_path, "validate=true", override))
        assert said in capsys.readouterr().out


def test_a_pretrained_encoder_is_told_as_frozen_unless_the_step_trains_it(tmp_path: Path) -> None:
    words = ["model/text_encoder=huggingface", "model.text_encoder.name=anything", "model.text_dim=16"]
    size = Length(updates=4, updates_per_epoch=4, batch_size=2, micro_batch=2)
    for unfreeze, trains, players in (
        ("[]", "flow_processor; uses frozen: compressor, expander, text_encoder", 1),
        ("[text_encoder]", "flow_processor, text_encoder; uses frozen: compressor, expander", 2),
    ):
        config = typed(toy(tmp_path, *words, f"stage.steps.flow.unfreeze={unfreeze}", stage="flow"))
        lines = step_lines(1, "flow", config.stage.steps["flow"], size, 1, config.model)
        assert f"    trains: {trains}" in lines
        assert sum(line.count("AdamW") for line in lines) == players


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (["cache.mode=on"], "captions are encoded once, and it leaves the GPU"),
        (["cache.mode=off"], "captions are encoded at every update"),
        (["cache.mode=off", "cache.recent_gib=2", "cache.recent_on=disk"], "update, recent ones kept in 2 GiB of disk"),
        (["stage.steps.flow.unfreeze=[text_encoder]"], "trained"),
    ],
)
def test_the_plan_says_what_a_pretrained_encoder_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], how: str
) -> None:
    name = f"model.text_encoder.name={save(tmp_path / 'qwen', 'qwen2')}"
    pipeline.run(toy(tmp_path, "model/text_encoder=huggingface", name, "model.text_dim=16", "validate=true", *words))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "    text:" in line]
    assert line.startswith("    text: 0.00 GiB of text_encoder's weights; ")
    assert line.endswith(how)


def test_the_plan_says_what_a_step_is_aligned_with_and_what_that_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aligned, folder = "stage.steps.flow.trainer.repa", small_timm(tmp_path / "teacher")
    words = [f"+loss@{aligned}=repa", f"{aligned}.teacher_path={folder}", f"{aligned}.stop=0.3", "data.n_images=65536"]
    for mode, how in {
        "auto": f"once, its features kept in {65536 * 96 * 16 * 2 / 2**30:.2g} GiB",
        "off": "at every update",
    }.items():
        pipeline.run(toy(tmp_path, "validate=true", f"cache.mode={mode}", *words))
        said = f"teacher: {folder}, 96 channels, for block 1, until update 4916 of 16384; each image seen {how}"
        assert said in capsys.readouterr().out
