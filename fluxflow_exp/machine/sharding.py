"""A part that does not fit on one card, spread over the ranks (FSDP2; Zhao et al. 2023).

Checkpoints and published weights always hold whole tensors, so that they load on any number of ranks. States of
optimizers stay numbered, as torch's own are: torch.distributed.checkpoint names parameters, and takes a step where
there is no state yet, so that a save would change what follows.
Torch's FSDP and DTensor are imported where they are used: a check of a configuration does without that half second.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_exp.machine.ranks import Ranks


def shard(module: nn.Module, ranks: Ranks, device: torch.device, *, blocks: Iterable[nn.Module]) -> None:
    """Spread `module`, block by block, over all ranks. Its gradients are summed over them, not averaged."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (ranks.count,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    # Without this the root would keep gathered weights after a forward pass, and evaluate with those of before a swap.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.set_gradient_divide_factor(1.0)
            each.set_force_sum_reduction_for_comms(True)  # gloo has no other


def is_sharded(module: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def whole(state: Any) -> Any:
    """Return `state` (dicts, lists, tensors) with every spread tensor gathered. All ranks must call it together."""
    from torch.distributed.tensor import DTensor

    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    return state


def gathered(state: Any) -> Any:
    """As `whole`, to be kept: on the first rank's CPU; others get nothing in the place of what is spread.

    One tensor after the other, so that no card ever holds a whole model, nor the moments and averages of one.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(state, DTensor):
        tensor = state.full_tensor()
        return tensor.cpu() if state.device_mesh.get_rank() == 0 else tensor.new_empty(0, device="cpu")
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(gathered(value) for value in state)
    return state


def like(tensor: Any, reference: Tensor) -> Any:
    """Bring a whole `tensor` to the device of `reference`, spread as that is, if it is spread and of its shape.

    What is no tensor stays as it is.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(reference, DTensor) and isinstance(tensor, Tensor) and tensor.shape == reference.shape:
        there = tensor.to(reference.device)
        # Every rank has the whole: nothing needs to be sent. A part alone would keep the whole's memory.
        return distribute_tensor(there, reference.device_mesh, reference.placements, src_data_rank=None).clone()
    return tensor.to(reference.device) if isinstance(tensor, Tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this rank holds."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
