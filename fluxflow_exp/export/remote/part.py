"""A part of a model as a component of a diffusers pipeline: written into the pipeline's folder, and run from there."""

import json
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file
from torch import Tensor, nn

from fluxflow_exp.export.remote.building import built

PART: type[nn.Module] = nn.Module  # in a folder its own part's class stands for it


class FluxFlowPart(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """`part` is a model part of fluxflow_exp, built from `arguments`; a call is a call of it."""

    config_name = "config.json"
    ignore_for_config = ["state"]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, arguments: dict[str, Any], state: dict[str, Tensor]) -> None:
        super().__init__()
        self.part = built(PART, arguments, state)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        **_: Any,
    ) -> "FluxFlowPart":
        """The part in `folder`: config.json and diffusion_pytorch_model.safetensors, with the `variant` in its name.

        `torch_dtype` is what earlier versions of diffusers call `dtype`.
        """
        config = json.loads((Path(folder) / cls.config_name).read_text(encoding="utf-8"))
        name = ".".join(filter(None, ["diffusion_pytorch_model", variant, "safetensors"]))
        tensors = load_file(Path(folder) / name)
        state = {name.removeprefix("part."): tensor for name, tensor in tensors.items()}
        made = cls(config["arguments"], state)
        if dtype or torch_dtype:
            made.part.to(dtype or torch_dtype)
        return cast(FluxFlowPart, made)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.part(*arguments, **options)
