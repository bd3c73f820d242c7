"""Two nodes of ComfyUI, a loader and a sampler: written beside the weights, and run from there.

The interface is that of ComfyUI's custom nodes (docs.comfy.org/custom-nodes/backend/server_overview): classes with
INPUT_TYPES, RETURN_TYPES, FUNCTION and CATEGORY. Images are (batch, height, width, 3), float in [0, 1].
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fluxflow_exp.export.remote.building import built
from fluxflow_exp.models.facts import KEY
from fluxflow_exp.models.text_to_image import OBJECTIVES, UNGUIDED, TextToImage
from fluxflow_exp.samplers import SAMPLERS

EXPANDER: type[nn.Module] = nn.Module  # in a folder the classes of its model stand for these
FLOW_PROCESSOR: type[nn.Module] = nn.Module
TEXT_ENCODER: type[nn.Module] = nn.Module
FOLDER = Path(__file__).parent
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LoadFluxFlow:
    """The model of this folder."""

    RETURN_TYPES = ("FLUXFLOW_MODEL",)
    FUNCTION = "load"
    CATEGORY = "FluxFlow"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"device": (["auto", "cpu", "cuda"],)}}

    def load(self, device: str) -> tuple[TextToImage]:
        with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
            facts = json.loads(file.metadata()[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        parts = {"expander": EXPANDER, "flow_processor": FLOW_PROCESSOR, "text_encoder": TEXT_ENCODER}
        made: dict[str, Any] = {}
        for part, make in parts.items():
            arguments = {key: value for key, value in facts["model"][part].items() if key != "_target_"}
            state = {key.removeprefix(f"{part}."): tensors[key] for key in tensors if key.startswith(f"{part}.")}
            made[part] = built(make, arguments, state)
        objective = OBJECTIVES[facts["flow"]["objective"]](shift=facts["flow"]["shift"])
        model = TextToImage(
            **made,
            downscale=facts["downscale"],
            objective=objective,
            img_size=facts["img_size"],
            trained_with_dropout=facts["flow"]["cfg_dropout_prob"] > 0,
        )
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return (model.to(chosen).eval(),)


class FluxFlowSampler:
    """Pictures of one prompt; 0 stands for the width, height and shift of training."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "sample"
    CATEGORY = "FluxFlow"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"min": 0.0, "max": 1.0, "step": 0.05}
        return {
            "required": {
                "model": ("FLUXFLOW_MODEL",),
                "prompt": ("STRING", {"multiline": True, "default": ""}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "steps": ("INT", {"default": 50, "min": 1, "max": 1000}),
                "guidance_scale": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.5}),
                "sampler": (list(SAMPLERS), {"default": "euler"}),
                "count": ("INT", {"default": 1, "min": 1, "max": 256}),
            },
            "optional": {
                "negative_prompt": ("STRING", {"multiline": True, "default": ""}),
                "width": ("INT", {"default": 0, "min": 0, "max": 8192}),
                "height": ("INT", {"default": 0, "min": 0, "max": 8192}),
                "shift": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1}),
                "guided_from": ("FLOAT", {"default": 0.0, **share}),
                "guided_to": ("FLOAT", {"default": 1.0, **share}),
                "precision": (list(PRECISIONS), {"default": "fp32"}),
            },
        }

    # One argument for each input of the node.
    def sample(
        self, model: TextToImage, prompt: str, seed: int, steps: int, guidance_scale: float, sampler: str, count: int,
        negative_prompt: str = "", width: int = 0, height: int = 0, shift: float = 0.0,
        guided_from: float = 0.0, guided_to: float = 1.0, precision: str = "fp32",
    ) -> tuple[Tensor]:  # fmt: skip
        if guidance_scale != 1.0 and not model.trained_with_dropout:
            warnings.warn(UNGUIDED.removeprefix("warning: "), stacklevel=2)
        made = model.generate(
            [prompt] * count,
            guidance_scale=guidance_scale,
            guidance_interval=None if (guided_from, guided_to) == (0, 1) else (guided_from, guided_to),
            negative_prompt=negative_prompt,
            steps=steps,
            sampler=sampler,
            shift=shift or None,
            size=(width or model.img_size, height or model.img_size),
            seed=seed,
            batch_size=16,
        )
        device, kind = model.flow_processor.latent_mean.device.type, PRECISIONS[precision]
        with torch.autocast(device, kind, enabled=precision != "fp32"):
            images = torch.cat(list(made))
        return (images.permute(0, 2, 3, 1).float() / 255,)


NAME = FOLDER.name
NODE_CLASS_MAPPINGS = {f"LoadFluxFlow {NAME}": LoadFluxFlow, "FluxFlowSampler": FluxFlowSampler}
NODE_DISPLAY_NAME_MAPPINGS = {f"LoadFluxFlow {NAME}": f"Load {NAME}", "FluxFlowSampler": "FluxFlow sampler"}
