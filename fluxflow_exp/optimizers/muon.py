"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum whose matrices are made orthogonal.

The update of a matrix is its Nesterov momentum with all singular values brought near 1, by five Newton-Schulz steps; it
is scaled to the size that AdamW's updates have (Liu et al. 2025, arXiv 2502.16982, eq. 4), so that one learning rate
serves both. A convolution's weight is the matrix (channels out, channels in · height · width). All that is no
hidden matrix (embeddings, first and last convolution, output, modulation, norms, biases) is updated by AdamW.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Len
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from fluxflow_exp.config.bounds import NonNegativeFloat, PositiveFloat, ShareBelowOne
from fluxflow_exp.machine import sharding
from fluxflow_exp.machine.cuda_graphs import CudaGraphs

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; Jordan et al. 2024
STEPS = 5
BATCH = 2**26  # entries that are made orthogonal at once: a few temporary copies of as many are held
SCALE = 0.2  # root mean square of an update's entries, as AdamW's are found to have; Liu et al. 2025


def orthogonalised(matrices: Tensor) -> Tensor:
    """(n, rows, columns) → the same singular vectors with singular values between about 0.7 and 1.2.

    In bfloat16 on a GPU, where the products cost least; the iteration tolerates it. Zeros stay zeros.
    """
    found = matrices.bfloat16() if matrices.is_cuda else matrices
    upright = found.shape[-2] > found.shape[-1]
    found = found.mT if upright else found
    found = found / found.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = found @ found.mT
        mixed = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        found = torch.baddbmm(found, mixed, found, beta=a)
    return (found.mT if upright else found).to(matrices.dtype)


class Muon(Optimizer):
    """`params` are named, as `nn.Module.named_parameters` gives them.

    Matrices and weights of 2-D convolutions whose names match one of `hidden` and none of `other` (patterns of fnmatch)
    are made orthogonal, with `momentum`; the rest follow AdamW with `betas` and `eps`. `lr` and the decoupled
    `weight_decay` are those of both.

    `found_inf` (), set by the caller before `step`: where it is 1, the update leaves weights and state as they are,
    without the host waiting for it. `graphs`, set by the caller where nothing is spread over ranks: what is made
    orthogonal is replayed, for launching some hundreds of short kernels takes the host longer than the GPU needs for
    them.
    """

    _step_supports_amp_scaling = True
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None
    graphs: CudaGraphs | None = None

    def __init__(
        self,
        params: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: NonNegativeFloat,
        betas: Annotated[list[ShareBelowOne], Len(2, 2)],
        momentum: ShareBelowOne = 0.95,
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.01,
        hidden: Iterable[str] = ("*.blocks.*.weight",),
        other: Iterable[str] = ("*.modulation.*", "text_encoder.*"),
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), not {betas}")
        named = list(params)
        self.hidden = {
            parameter
            for name, parameter in named
            if parameter.ndim in (2, 4)
            and any(fnmatchcase(name, pattern) for pattern in hidden)
            and not any(fnmatchcase(name, pattern) for pattern in other)
        }
        values = {"lr": lr, "momentum": momentum, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__([parameter for _, parameter in named], values)
        self.defaults["foreach"] = True  # gradients are zeroed together; no part of the state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all parameters that have gradients."""
        assert closure is None
        assert self.grad_scale is None  # gradients are unscaled before they are clipped
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._adamw(group, [parameter for parameter in given if parameter not in self.hidden])
            self._orthogonal(group, [parameter for parameter in given if parameter in self.hidden])

    def _adamw(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            list(parameters),
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _orthogonal(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        alike: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            alike[tuple(parameter.shape)].append(parameter)
        # A graph is of certain parameters, so all of them must take part.
        graphs = self.graphs if len(parameters) == len(self.hidden) else None
        for same in alike.values():
            at_once = max(BATCH // same[0].numel(), 1)
            for first in range(0, len(same), at_once):
                some = same[first : first + at_once]
                gradient = torch.stack([sharding.whole(parameter.grad).movedim(1, -1) for parameter in some])
                update, arguments = partial(self._update, some, group["momentum"]), self._numbers(group, gradient)
                if graphs is None:
                    update(gradient, *arguments)
                else:
                    graphs.run(update, [gradient, *arguments], key=some[0])

    def _numbers(self, group: dict[str, Any], gradient: Tensor) -> list[Tensor]:
        """Learning rate, decay and whether to leave the update out, () each, where the gradient is."""
        decay = 1 - group["lr"] * group["weight_decay"]
        bad = torch.zeros((), device=gradient.device) if self.found_inf is None else self.found_inf
        numbers = (torch.full((), value, dtype=torch.float64, device=gradient.device) for value in (group["lr"], decay))
        return [*numbers, bad]

    def _update(
        self, same: list[nn.Parameter], momentum: float, gradient: Tensor, lr: Tensor, decay: Tensor, bad: Tensor
    ) -> dict[str, Tensor]:
        """The matrices `same`, of one shape, together: at a transformer's widths one of them does not fill a GPU.

        Channels in are the innermost of the columns, whose order does not matter: as they lie in a GPU's memory.
        """
        rows, *inputs = same[0].shape
        scale, left_out = SCALE * math.sqrt(max(rows, math.prod(inputs))), bad.bool()
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in same]
        average = torch.stack([sharding.whole(buffer).movedim(1, -1) for buffer in buffers])
        gradient = torch.where(left_out, average, gradient)  # the momentum then stays
        moved = torch.lerp(average, gradient, 1 - momentum)
        ahead = torch.lerp(gradient, moved, momentum)
        rate = torch.where(left_out, 0.0, -scale * lr).to(ahead.dtype)
        change = orthogonalised(ahead.flatten(2)).reshape(ahead.shape) * rate
        weights = [sharding.local(parameter) for parameter in same]
        torch._foreach_copy_([sharding.local(buffer) for buffer in buffers], _spread(moved, same))
        torch._foreach_mul_(weights, torch.where(left_out, 1.0, decay).to(ahead.dtype))
        torch._foreach_add_(weights, _spread(change, same))
        return {}


def _spread(whole: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """What this rank holds of each matrix of `whole`, if the parameters are spread over the ranks."""
    each = zip(whole.movedim(-1, 2).unbind(), parameters, strict=True)
    return [sharding.local(sharding.like(matrix, parameter)) for matrix, parameter in each]
