"""A GPU that is not there: tensors have shapes, types and a place, and no data.

Torch's fake tensors do the work. What torch asks a CUDA driver for is answered here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fluxflow_exp.plan.backward import walked
from fluxflow_exp.seeding import generator

DEVICE = torch.device("cuda", 0)


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Inside the block tensors are fake, and `cuda` is a device."""
    with (
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
        patch("torch.cuda._lazy_init", lambda: None),
        patch("torch._C._select_conv_backend", _conv_backend),
        patch("torch.nn.functional.scaled_dot_product_attention", _attention),
        patch("fluxflow_exp.trainers.updates.generator", lambda *keys, device: generator(*keys)),  # the CPU's
        patch.object(Tensor, "pin_memory", lambda tensor: tensor),
        patch.object(nn.Module, "to", _move),
        walked(),
        FakeTensorMode(allow_non_fake_inputs=True),
        _RealHost(),  # type: ignore[no-untyped-call]
    ):
        yield


class _RealHost(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Compute what concerns the CPU alone: sizes and choices depend on it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        host = device is None or torch.device(device).type == "cpu"
        if host and all(type(each) in (Tensor, nn.Parameter) for each in given):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _move(
    module: nn.Module,
    device: torch.device,
    *,
    memory_format: torch.memory_format = torch.preserve_format,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """`Module.to`, which cannot swap fake parameters."""
    for each in module.modules():
        held: list[dict[str, Any]] = [each._parameters, each._buffers]
        for kept in held:
            for name, tensor in kept.items():
                if tensor is None:
                    continue
                layout = memory_format if tensor.ndim == 4 else torch.preserve_format
                moved = tensor.detach().to(device, dtype, memory_format=layout)
                parameter = isinstance(tensor, nn.Parameter)
                kept[name] = nn.Parameter(moved, tensor.requires_grad) if parameter else moved
    return module


def _conv_backend(input: Tensor, weight: Tensor, *, transposed: bool, **_: Any) -> Any:
    """cuDNN, which torch would not choose for half precision without looking at a card."""
    kinds = torch._C._ConvBackend  # type: ignore[attr-defined]
    return kinds.CudnnTranspose if transposed else kinds.Cudnn


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    """The kernels that torch chooses on a GPU: flash attention, and with a mask or in float32 the efficient one."""
    if torch.is_autocast_enabled("cuda"):
        kind = torch.get_autocast_dtype("cuda")
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
    if attn_mask is None and query.dtype in (torch.bfloat16, torch.float16):
        made: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return made
    bias = None
    if attn_mask is not None:
        bias = attn_mask.to(query.dtype)  # T5's is a number for each place
        if attn_mask.dtype == torch.bool:
            bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
        bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    keep = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    made = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, keep)[0]
    return made
