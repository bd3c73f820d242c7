"""CLIP score (Hessel et al. 2021) by torchmetrics: 100 × the cosine between an image and its caption, not below 0."""

import json
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import digests
from fluxflow_exp.machine import network

BATCH = 64


class ClipScore:
    """The CLIP `name`, on the Hugging Face hub or in a folder. UserError: it is neither here nor to be had."""

    def __init__(self, name: str, device: torch.device) -> None:
        from transformers import AutoProcessor, CLIPModel

        silent = ""
        try:
            with network.hub(f"the CLIP {name}") if not Path(name).is_dir() else nullcontext("") as silent:
                model = CLIPModel.from_pretrained(name, dtype=torch.float32)
                processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = silent or str(error).splitlines()[0]
            raise UserError(
                f"--clip {name}: this CLIP is neither on this machine nor to be had ({reason}). "
                "Give a folder with its files (config.json, weights, tokenizer, preprocessor_config.json)"
            ) from error
        self.name, self.device = Path(name).name if Path(name).is_dir() else name, device
        about = json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str)
        self.digest = digests.of_tensors(model.state_dict(), about)
        self.model, self.processor = _Tensors(model.eval().requires_grad_(False).to(device)), processor

    @property
    def record(self) -> dict[str, str]:
        return {"name": self.name, "digest": self.digest}

    @torch.no_grad()
    def __call__(self, images: Tensor, captions: list[str]) -> float:
        """uint8 (n, 3, height, width) and their n captions → the mean score. Long captions are cut."""
        from torchmetrics.multimodal import CLIPScore

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of captions that are cut
            metric = CLIPScore(model_name_or_path=lambda: (self.model, self.processor)).to(self.device)
            for first in range(0, len(images), BATCH):
                rows = slice(first, first + BATCH)
                metric.update(list(images[rows].to(self.device)), captions[rows])
        return float(metric.compute())


class _Tensors(nn.Module):
    """The part of a CLIP that torchmetrics calls; of newer transformers' output it takes the projected features."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, *words: Any, **more: Any) -> Tensor:
        return _features(self.model.get_image_features(*words, **more))

    def get_text_features(self, *words: Any, **more: Any) -> Tensor:
        return _features(self.model.get_text_features(*words, **more))


def _features(found: Any) -> Tensor:
    features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return features
