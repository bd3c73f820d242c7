"""How tokens are kept: as numbers, in bfloat16, or as eight-bit floats with a scale of each token's own.

The eight bits are those of e4m3 (Micikevicius et al. 2022, arXiv 2209.05433): three of mantissa, to 448. A token's
largest channel is scaled to 448, so that what is lost is at most a sixteenth of a channel, whatever the model's scale.
"""

import torch
from torch import Tensor

from fluxflow_exp.errors import UserError

FORMATS = ("float32", "float16", "bfloat16", "float8")
SCALE_BYTES = 4
LARGEST = 448.0  # of e4m3


def form_of(asked: str, precision: str) -> str:
    """The format that `cache.text_dtype` asks for; auto: of a run in fp32 the numbers themselves."""
    if asked != "auto":
        return asked
    return "float32" if precision == "fp32" else "float16"


def packed_each(tokens: Tensor, mask: Tensor, form: str, captions: list[str]) -> list[Tensor]:
    """What is kept of each caption's own tokens, (own length, …), of tokens (batch, length, width) and their mask.

    UserError: the format does not hold them.
    """
    kept, masks = packed(tokens, form), mask.cpu()
    found = [each[own] for each, own in zip(kept, masks, strict=True)]
    wrong = next((c for c, each in zip(captions, found, strict=True) if not unpacked(each).isfinite().all()), None)
    if wrong is not None:
        raise UserError(f"the tokens of {wrong!r} are not finite in {form}: set cache.text_dtype=bfloat16")
    return found


def packed(tokens: Tensor, form: str) -> Tensor:
    """Tokens (…, width) as they are kept, on the CPU: bfloat16 as int16, which NumPy has, and with `float8`
    (…, 4 + width) of uint8."""
    if form == "bfloat16":
        return tokens.to(torch.bfloat16).cpu().view(torch.int16)
    if form != "float8":
        return tokens.to(getattr(torch, form)).cpu()
    scale = tokens.float().abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
    eighths = (tokens.float() / scale).to(torch.float8_e4m3fn)
    return torch.cat([scale.cpu().view(torch.uint8), eighths.cpu().view(torch.uint8)], -1)


def unpacked(kept: Tensor) -> Tensor:
    """float32 tokens (…, width) of what `packed` gave, on any device; what is all zeros is zeros."""
    if kept.dtype == torch.int16:
        return kept.view(torch.bfloat16).float()
    if kept.dtype != torch.uint8:
        return kept.float()
    scale = kept[..., :SCALE_BYTES].contiguous().view(torch.float32)
    return kept[..., SCALE_BYTES:].contiguous().view(torch.float8_e4m3fn).float() * scale
