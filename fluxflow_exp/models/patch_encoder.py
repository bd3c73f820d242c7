"""Patch features of a trained image model from a local folder, as timm or transformers have saved it.

The whole picture is looked at, resized to the square (or rectangle) that the model's own preprocessing ends with, so
that each patch lies where it lies in the picture, whatever the picture's shape. Nothing is fetched, and no code of a
folder is run.
"""

import hashlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.errors import UserError
from fluxflow_exp.models.huggingface_files import quiet

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("*.safetensors", "*.bin")
PACKAGES = {"timm": 'pip install "fluxflow-exp[eval]"', "transformers": "pip install transformers"}
BICUBIC = 3  # of PIL's numbers for filters
SUPPORTED = (
    "an image model of timm (timm.models.save_for_hf) or of transformers (save_pretrained of the model and of its "
    "image processor) that gives a map or patches, as DINOv2, DINOv3, SigLIP, CLIP, ViT, ResNet or EfficientNet do"
)


class Preprocessing(NamedTuple):
    size: tuple[int, int]  # height and width in pixels
    mean: tuple[float, ...]  # of the channels, of values in [0, 1]
    deviation: tuple[float, ...]
    mode: str  # bilinear | bicubic


class PatchEncoder(nn.Module):
    """Pictures (n, 3, height, width) in [-1, 1] → features (n, `channels`, *`grid`), float32; frozen.

    ValueError: `model` gives no map of features.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, wanted: Preprocessing, patches: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.wanted, self.patches = model, wanted, patches
        self.register_buffer("mean", torch.tensor(wanted.mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(wanted.deviation).view(-1, 1, 1))
        self.eval().requires_grad_(False)
        found = self(torch.zeros(1, 3, *wanted.size))
        if found.ndim != 4 or found.shape[-1] * found.shape[-2] < 2:
            raise ValueError(f"it gives no map of features, but {tuple(found.shape)}")
        self.channels, self.grid = int(found.shape[1]), (int(found.shape[2]), int(found.shape[3]))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        resized = F.interpolate(images.float(), self.wanted.size, mode=self.wanted.mode, antialias=True)
        scaled = (resized.clamp(-1, 1) + 1) / 2
        return self.patches(self.model, (scaled - self.mean) / self.deviation).float()

    def train(self, mode: bool = True) -> "PatchEncoder":
        """Stays in eval mode: it is never trained."""
        return super().train(False)

    def extra_repr(self) -> str:
        return repr(self.wanted)


def on_grid(features: Tensor, rows: int, columns: int) -> Tensor:
    """(n, channels, h, w) → (n, channels, rows, columns), bilinear; in bfloat16."""
    size = (rows, columns)
    if features.shape[-2:] != size:
        features = F.interpolate(features.float(), size, mode="bilinear", antialias=True)
    return features.bfloat16()


def check(folder: Path) -> dict[str, Any]:
    """The config.json of a folder that can be what `load` takes. ValueError: it cannot. Nothing is loaded."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: copy {SUPPORTED} there")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no {CONFIG}: it must hold {SUPPORTED}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict) or not {"architecture", "model_type"} & config.keys():
        raise ValueError(f"{folder / CONFIG} names no model: the folder must hold {SUPPORTED}")
    library = "timm" if "architecture" in config else "transformers"
    if find_spec(library) is None:
        raise ValueError(f"{folder} holds a model of {library}, which is not installed: {PACKAGES[library]}")
    if library == "transformers" and not (folder / PREPROCESSOR).is_file():
        raise ValueError(f"{folder} has no {PREPROCESSOR}, which image models have: it must hold {SUPPORTED}")
    if not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        raise ValueError(f"{folder} has no weights: it must hold {SUPPORTED}")
    return config


def fingerprint(model: nn.Module) -> str:
    """A digest, hexadecimal, that tells image models apart, whatever library has loaded them and without their end.

    It is that of the first convolution, which nearly all begin with, or of the first matrix.
    """
    weights = list(model.state_dict().values())
    first = next((w for w in weights if w.ndim == 4), next(w for w in weights if w.ndim > 1))
    return hashlib.sha256(first.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()


def load(folder: Path) -> PatchEncoder:
    """The model in `folder`, on the CPU. UserError: it is none, or its weights do not fit it."""
    try:
        config = check(folder)
        with torch.random.fork_rng(devices=[]):  # models are filled with random numbers first
            return (_timm if "architecture" in config else _transformers)(folder)
    except Exception as error:  # of either library, which have errors of every type for what does not fit
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        said = (
            reason if str(folder) in reason else f"{folder} gives no patch features: {reason}. It must hold {SUPPORTED}"
        )
        raise UserError(said) from error


def _timm(folder: Path) -> PatchEncoder:
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    given = timm.data.resolve_model_data_config(model)
    mode = "bilinear" if given["interpolation"] == "bilinear" else "bicubic"
    wanted = Preprocessing(tuple(given["input_size"][-2:]), tuple(given["mean"]), tuple(given["std"]), mode)
    model.reset_classifier(0)
    channels, prefix = int(model.num_features), int(getattr(model, "num_prefix_tokens", 0))

    def patches(model: Any, pixels: Tensor) -> Tensor:
        found: Tensor = model.forward_features(pixels)
        if found.ndim == 3:
            tokens = found[:, prefix:]
            rows = round((tokens.shape[1] * wanted.size[0] / wanted.size[1]) ** 0.5)
            return _map(tokens, rows, tokens.shape[1] // rows)
        # Some architectures keep channels innermost.
        return found if found.shape[1] == channels or found.shape[-1] != channels else found.permute(0, 3, 1, 2)

    return PatchEncoder(model, wanted, patches)


def _transformers(folder: Path) -> PatchEncoder:
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with quiet():
        whole, said = AutoModel.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True, output_loading_info=True
        )
    model = getattr(whole, "vision_model", whole)  # CLIP and its like have one for text beside it
    own = {name for name, _ in model.named_parameters()}
    # What pools patches is not needed, and seldom saved.
    lacking = sorted(
        key for key in said["missing_keys"] if key.removeprefix("vision_model.") in own and "pool" not in key
    )
    if lacking:
        raise ValueError(f"its weights lack {lacking[0]} ({len(lacking)} tensors)")
    wanted = _processed(processor)
    side = getattr(model.config, "patch_size", None)
    height, width = side if isinstance(side, (list, tuple)) else (side, side)

    def patches(model: Any, pixels: Tensor) -> Tensor:
        found: Tensor = model(pixel_values=pixels).last_hidden_state
        if found.ndim != 3:
            return found
        if side is None:
            raise ValueError("its config.json names no patch_size")
        rows, columns = wanted.size[0] // height, wanted.size[1] // width
        first = found.shape[1] - rows * columns  # a class token and registers stand before the patches
        if first < 0:
            raise ValueError(f"it gives {found.shape[1]} tokens, and its picture has {rows} x {columns} patches")
        return _map(found[:, first:], rows, columns)

    return PatchEncoder(model, wanted, patches)


def _processed(processor: Any) -> Preprocessing:
    """What an image processor of transformers does in the end; a picture is not cut, but resized as a whole."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    sides = dict(size or {})
    side = sides.get("shortest_edge") or sides.get("longest_edge")
    height, width = sides.get("height") or side, sides.get("width") or side
    if not height or not width:
        raise ValueError(f"its image processor names no size, but {sides}")
    normal = getattr(processor, "do_normalize", True)
    mean = tuple(processor.image_mean) if normal else (0.0, 0.0, 0.0)
    deviation = tuple(processor.image_std) if normal else (1.0, 1.0, 1.0)
    # A rescaling that is none of 1/255 is into [-1, 1] and back, or not at all.
    factor = 255 * (processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0)
    mode = "bicubic" if getattr(processor, "resample", BICUBIC) == BICUBIC else "bilinear"
    return Preprocessing(
        (int(height), int(width)), tuple(m / factor for m in mean), tuple(d / factor for d in deviation), mode
    )


def _map(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """(n, rows · columns, channels) → (n, channels, rows, columns)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)
