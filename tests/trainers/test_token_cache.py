"""A frozen text encoder's tokens on the disk: their form, their bound, and where the encoder is afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp.errors import UserError
from fluxflow_exp.models.text_encoder import Text
from fluxflow_exp.trainers.latent_cache import open_cache
from fluxflow_exp.trainers.latents import Cached
from tests.helpers.text_encoders import save
from tests.helpers.trainers import build

FROZEN = "stage.steps.flow.freeze=[text_encoder]"


def trainer_of(root: Path, *overrides: str) -> tuple[Any, Any]:
    trainer, batch = build(root, "flow", FROZEN, *overrides)
    return trainer, batch


@pytest.mark.parametrize(
    ("form", "near", "dtype"),
    [
        ("auto", 1e-5, torch.float32),
        ("float16", 1e-3, torch.float16),
        ("bfloat16", 1e-2, torch.int16),
        ("float8", 5e-2, torch.uint8),
    ],
)
def test_training_reads_tokens_in_the_form_that_was_asked_for(
    tmp_path: Path, form: str, near: float, dtype: torch.dtype
) -> None:
    trainer, _ = trainer_of(tmp_path, f"cache.text_dtype={form}")
    trainer.setup.cache = tmp_path / "cache"
    trainer.open_source()
    assert isinstance(trainer.latents, Cached)
    rows = trainer.source.read_rows([0, 1, 2, 3])
    assert rows.tokens.tokens.dtype == dtype
    expected = trainer.text_encoder([*rows.captions[:3], ""])
    trainer.latents.lengths, trainer.latents.tokens = rows.tokens.lengths, rows.tokens.tokens
    micro = next(iter(trainer.accumulation.micros(rows.values, rows.captions)))
    text = Text(*trainer.latents.text(micro, [False, False, False, True]))
    length = min(text.mask.shape[1], expected.mask.shape[1])
    assert torch.equal(text.mask[:, :length], expected.mask[:, :length])
    error = (text.tokens[:, :length] - expected.tokens[:, :length]).norm() / expected.tokens.norm()
    assert error < near
    names = {path.name for path in (tmp_path / "cache").glob("text-*")}
    again, _ = trainer_of(tmp_path, f"cache.text_dtype={form}")
    open_cache(again.setup, tmp_path / "cache", False)
    assert {path.name for path in (tmp_path / "cache").glob("text-*")} == names


def test_each_form_and_each_reading_has_a_cache_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    chosen = ["model/text_encoder=huggingface", f"model.text_encoder.name={save(tmp_path / 'qwen', 'qwen2')}"]
    chosen += ["model.text_dim=16"]
    variants = [
        [], ["cache.text_dtype=bfloat16"], ["+model.text_encoder.layer=-2"], ["model.text_encoder.max_length=4"],
        ['+model.text_encoder.template="A {caption}"'], ["+model.text_encoder.drop=around"],
    ]  # fmt: skip
    for words in [*variants, []]:
        trainer, _ = trainer_of(tmp_path, *chosen, *words)
        open_cache(trainer.setup, tmp_path / "cache", False)
    assert len(list((tmp_path / "cache").glob("text-*"))) == len(variants)


def test_what_exceeds_the_bound_is_encoded_at_each_update(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, _ = trainer_of(tmp_path, "cache.mode=auto")
    trainer.setup.cache = tmp_path / "cache"
    latents = 32 * 2 * 4 * 4 * 4 * 4  # images, moments of 4 channels, float32
    trainer.setup.caching.max_gib = (latents + 100) / 2**30
    trainer.open_source()
    assert isinstance(trainer.latents, Cached)
    assert not trainer.latents.has_tokens
    assert "more than cache.max_gib=" in capsys.readouterr().out
    assert not list((tmp_path / "cache").glob("text-*/*.npy"))
    trainer.setup.caching.max_gib = (latents - 1) / 2**30
    assert open_cache(trainer.setup, tmp_path / "cache", False) is None
    assert "Nothing is cached: latents of 32 images take" in capsys.readouterr().out
    trainer.setup.caching.mode = "on"
    with pytest.raises(UserError, match=r"latents of 32 images .* more than cache.max_gib=.*: raise it, or set cache"):
        open_cache(trainer.setup, tmp_path / "cache", False)
    trainer.setup.caching.max_gib = 1.0
    kept = open_cache(trainer.setup, tmp_path / "cache", False)
    assert kept
    assert kept.tokens


def test_the_need_is_near_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fluxflow_exp.trainers.token_cache import CaptionEncoder, open_tokens

    trainer, _ = trainer_of(tmp_path)
    captions = sorted({"x" * (i * i % 50) + str(i) for i in range(300)} | {"", "y" * 500})
    cache = open_tokens(trainer.setup, tmp_path, captions, None)
    assert cache
    written = sum(path.stat().st_size for path in cache.shards.folder.glob("*.npy"))
    assert CaptionEncoder(trainer.setup).need(cache, [0])[1] == pytest.approx(written, rel=0.05)
    assert "Text cache: 302 captions" in capsys.readouterr().out


def test_an_encoder_whose_tokens_are_all_cached_leaves_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Any] = []
    monkeypatch.setattr("fluxflow_exp.trainers.flow.make_visitor", lambda module, _: left.append(module))
    trainer, _ = trainer_of(tmp_path, "cache.mode=off")
    trainer.open_source()
    assert left == []
    trainer.setup.cache = tmp_path / "cache"
    trainer.open_source()
    assert left == [trainer.text_encoder]
    trained, _ = build(tmp_path, "flow")
    trained.setup.cache = tmp_path / "cache"
    trained.open_source()
    assert len(left) == 1
