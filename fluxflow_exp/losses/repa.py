"""Representation alignment (REPA; Yu et al. 2024, arXiv 2410.06940): a block learns what a trained image model sees.

The tokens that an early block of the flow transformer makes of the noisy latents are projected by a small MLP and drawn
towards the patch features that a frozen model, the teacher, gives of the clean picture. The projector is trained with
the flow transformer, and serves nothing afterwards. From some point on alignment holds the model back more than it
helps, and is left off (HASTE; Wang et al. 2025, arXiv 2505.16792).
"""

import inspect
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.config.bounds import Fraction, PositiveFloat, PositiveInt
from fluxflow_exp.losses.terms import Terms, per_sample
from fluxflow_exp.models import patch_encoder
from fluxflow_exp.models.patch_encoder import PatchEncoder


class Repa:
    """`weight` × (1 - cosine) between the projected tokens of a block and the teacher's features in the same places.

    `teacher_path`: folder of an image model of timm or transformers. `block` is counted from 1; None: a third of the
    depth, rounded. `stop`: share of the step's updates after which it is off; None: never. `width`: of the projector's
    two hidden layers. ValueError: the folder cannot be a teacher's.
    """

    def __init__(
        self,
        *,
        teacher_path: str,
        weight: PositiveFloat = 0.5,
        block: PositiveInt | None = None,
        stop: Fraction | None = None,
        width: PositiveInt = 2048,
    ) -> None:
        self.folder, self.block, self.stop = Path(teacher_path).expanduser(), block, stop
        self.width = width
        self.weights = {"repa": weight}
        try:
            patch_encoder.check(self.folder)
        except ValueError as error:
            raise ValueError(f"teacher_path: {error}") from error

    def blocks(self, flow: Any) -> tuple[int]:
        """`block` of a flow transformer. ValueError: it has no such one, or does not hand its tokens out."""
        if "taps" not in inspect.signature(flow.forward).parameters:
            raise ValueError(f"{type(flow).__name__} does not hand out what its blocks give: its forward takes no taps")
        for name in ("width", "patch_size"):
            if not hasattr(flow, name):
                raise ValueError(f"{type(flow).__name__} has no {name}, by which its tokens are projected")
        depth = len(flow.blocks)
        block = max(round(depth / 3), 1) if self.block is None else self.block
        if block > depth:
            raise ValueError(f"block={block} must be one of the {depth} blocks that the flow transformer has")
        return (block,)

    def is_on(self, update: int, updates: int) -> bool:
        """Whether `update`, counted from 0, of so many is aligned."""
        return self.stop is None or update < self.stop * updates

    def teacher(self) -> PatchEncoder:
        """On the CPU. UserError: the folder holds none."""
        return patch_encoder.load(self.folder)

    def projector(self, width: int, channels: int) -> nn.Sequential:
        """Tokens (…, `width`) → (…, `channels`); Yu et al. 2024, appendix."""
        return nn.Sequential(
            nn.Linear(width, self.width),
            nn.SiLU(),
            nn.Linear(self.width, self.width),
            nn.SiLU(),
            nn.Linear(self.width, channels),
        )

    def __call__(self, projected: Tensor, features: Tensor) -> Terms:
        """(batch, tokens, channels) and (batch, channels, rows, columns) of them. Gives `repa`, (batch,) in [0, 2]."""
        target = features.flatten(2).transpose(1, 2)
        cosine = F.cosine_similarity(projected.float(), target.detach().float(), dim=-1)
        return {"repa": per_sample(1 - cosine)}
