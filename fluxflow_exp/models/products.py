"""Matrix products that gradients of convolutions are made of."""

import torch
from torch import Tensor


def product(rows: Tensor, columns: Tensor) -> Tensor:
    """rowsᵀ · columns for (n, a) and (n, b), summed in float32 or better; that is the result's precision, too."""
    if rows.is_cuda and rows.dtype != sum_type(rows):
        return torch.mm(rows.t(), columns, out_dtype=torch.float32)
    return (rows.t() @ columns).to(sum_type(rows))


def sum_type(values: Tensor) -> torch.dtype:
    """Return the type that `values` are summed in."""
    return torch.promote_types(values.dtype, torch.float32)


def wide(values: Tensor) -> Tensor:
    """The same memory as fewer and wider elements, where the last dimension allows it: copies of them are faster."""
    fits = values.shape[-1] * values.element_size() % 8 == 0 and values.element_size() < 8
    return values.view(torch.int64) if fits else values
