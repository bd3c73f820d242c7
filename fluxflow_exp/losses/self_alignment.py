"""Self-alignment (LayerSync, arXiv 2510.12581): an early block of the flow transformer learns from a later one.

Later blocks have the stronger features, and are there anyway: no other network, no data and no parameter is needed.
"""

import inspect
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fluxflow_exp.config.bounds import PositiveFloat, PositiveInt
from fluxflow_exp.losses.terms import Terms, per_sample


class SelfAlignment:
    """`weight` × (1 - cosine) between the tokens that two blocks give; the later block's are a fixed target.

    `block` is the early one and `target` the later one, both counted from 1; None: a third and 0.6 of the depth,
    rounded. ValueError: weight is not positive, or target is not after block.
    """

    def __init__(
        self, *, weight: PositiveFloat = 0.2, block: PositiveInt | None = None, target: PositiveInt | None = None
    ) -> None:
        if weight <= 0:
            raise ValueError(f"weight must be positive, not {weight}")
        if block is not None and target is not None and target <= block:
            raise ValueError(f"target must be after block, and is {target} where block is {block}")
        self.block, self.target = block, target
        self.weights = {"self_alignment": weight}

    def blocks(self, flow: Any) -> tuple[int, int]:
        """`block` and `target` of a flow transformer. ValueError: it has no such two, or does not hand them out."""
        if "taps" not in inspect.signature(flow.forward).parameters:
            raise ValueError(f"{type(flow).__name__} does not hand out what its blocks give: its forward takes no taps")
        depth = len(flow.blocks)
        block = max(round(depth / 3), 1) if self.block is None else self.block
        target = round(0.6 * depth) if self.target is None else self.target
        if not block < target <= depth:
            raise ValueError(
                f"block={block} and target={target} must be two of the {depth} blocks that the flow transformer has, "
                "one after the other"
            )
        return block, target

    def __call__(self, early: Tensor, late: Tensor) -> Terms:
        """Tokens (batch, tokens, width) of both blocks. Gives `self_alignment`, (batch,) in [0, 2]."""
        cosine = F.cosine_similarity(early.float(), late.detach().float(), dim=-1)
        return {"self_alignment": per_sample(1 - cosine)}
