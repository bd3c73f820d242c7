"""CLIP score of a tiny CLIP with random weights: the cosine of its own embeddings."""

from pathlib import Path

import pytest
import torch

from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation.clip import ClipScore
from tests.helpers.networks import tiny_clip
from tests.helpers.packages import skip_without

transformers = pytest.importorskip("transformers")
skip_without("torchmetrics")
CAPTIONS = ["a red circle", "a blue square", "a red square on a blue ground"]


def test_the_score_is_a_hundred_times_the_mean_cosine(tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "clip")
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    score = ClipScore(str(folder), torch.device("cpu"))
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(text=CAPTIONS, images=list(images), return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**inputs)
    cosine = (out.image_embeds * out.text_embeds).sum(-1)  # of unit vectors
    assert score(images, CAPTIONS) == pytest.approx(max(100 * float(cosine.mean()), 0), abs=1e-3)
    flipped = score(255 - images, CAPTIONS)
    assert flipped != score(images, CAPTIONS)
    assert score.record == {"name": "clip", "digest": score.digest}
    assert ClipScore(str(tiny_clip(tmp_path / "other", seed=1)), torch.device("cpu")).digest != score.digest


def test_a_clip_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match=r"--clip .* neither on this machine nor to be had"):
        ClipScore(str(tmp_path), torch.device("cpu"))
