"""The physical choices: device, precision, determinism. Nothing else in the package names a GPU."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_exp.config import schema
from fluxflow_exp.errors import counted
from fluxflow_exp.models.layers import compile_regions, set_up_compilation

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """The hardware choices of a run, resolved on this machine."""

    device: torch.device
    precision: str  # fp32 | bf16 | fp16
    exact: bool
    expected: str | None = None  # part of the name of the GPU that was chosen
    devices: int = 1  # of this machine, one rank each
    compiled: bool = False  # regions of the models go through torch.compile
    checkpointing: bool = False  # activations are computed again in the backward pass
    cuda_graphs: bool = False  # passes that wait for the host are replayed as CUDA graphs

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of images: innermost channels on a GPU, as its convolutions and the Bezier kernel want them."""
        return torch.channels_last if self.device.type == "cuda" else torch.contiguous_format

    def place(self, module: nn.Module) -> None:
        """Move a part here, compiled where that was chosen."""
        module.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        if self.compiled:
            set_up_compilation(exact=self.exact)
            compile_regions(module)

    def to_device(self, images: Tensor) -> Tensor:
        """uint8 (batch, 3, height, width) → float32 in [-1, 1] on the device, channels last on a GPU."""
        there = images.to(self.device, non_blocking=True)
        return there.to(torch.float32, memory_format=self.memory_format) / 127.5 - 1

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision over float32 weights; a no-op in fp32."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16; a pass-through otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def forget_peak(self) -> None:
        """Measure the peak of memory from here on."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float | None:
        """GiB that torch has allocated at most since `forget_peak`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None

    def footprint(self) -> dict[str, Any]:
        """Return what decides, beside model and image size, how much memory a pass takes and how much there is."""
        name = "CPU" if self.device.type == "cpu" else _gpu_name(self.device)
        return {"gpu": name, "precision": self.precision, "activation_checkpointing": self.checkpointing}

    def describe(self) -> str:
        name = "CPU" if self.device.type == "cpu" else _gpu_name(self.device) or f"{self.expected} (not this machine)"
        threads = f", {counted(torch.get_num_threads(), 'thread')}" if self.device.type == "cpu" else ""
        unlike = f" (not the {self.expected} that was chosen)" if self.expected and self.expected not in name else ""
        resumes = "bit for bit" if self.exact else "to rounding (hardware.exact=true: bit for bit)"
        several = f"{self.devices} x " if self.devices > 1 else ""
        idle = torch.cuda.device_count() - self.devices if self.device.type == "cuda" else 0
        more = f" ({idle} more here: hardware.devices={idle + self.devices})" if idle > 0 else ""
        compiled = ", compiled" if self.compiled else ""
        how = f"{self.precision}{compiled}"
        return f"{several}{name}{unlike}{more}{threads}, {how}; an interrupted run continues {resumes}"


def uses_cuda_graphs(hardware: schema.Hardware, precision: str) -> bool:
    """Whether GPUs replay passes as CUDA graphs: without loss scaling, and without exchanges within a pass.

    On several GPUs only where it is asked for.
    """
    if precision == "fp16" or hardware.parallel == "fsdp":
        return False
    by_default = hardware.compile is not False and hardware.ranks == 1
    return by_default if hardware.cuda_graphs is None else hardware.cuda_graphs


def trains_on_cpu(device: str) -> bool:
    """Whether `hardware.device` means this machine's CPU."""
    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def prepare(hardware: schema.Hardware, *, local_rank: int = 0, computes: bool = True) -> Machine:
    """Resolve the automatic choices and set torch up for them, once a process.

    `computes`: something will be. A plan does without the choice of algorithms, which imports torch's compiler.
    """
    cuda = not trains_on_cpu(hardware.device)
    precision = hardware.precision
    if precision == "auto":
        precision = "bf16" if cuda else "fp32"
    exact = hardware.exact if hardware.exact is not None else not cuda
    if hardware.threads or (cuda and torch.cuda.device_count()):
        # Beside a GPU, torch's threads here do no more than copy pictures; where other processes had the cores, sixteen
        # that waited for each other took 7.5 ms for one of 128 pixels, which is 0.03 ms of work.
        torch.set_num_threads(hardware.threads or 1)
    if cuda:
        # cuBLAS reads this when it starts; with other workspaces its sums may change order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cuda.matmul.allow_tf32 = hardware.tf32
        # torch takes a no for half precision, too, and leaves matrix units unused there.
        torch.backends.cudnn.allow_tf32 = hardware.tf32 or precision != "fp32"
        if torch.cuda.device_count():  # a plan can be made where there is none
            # SLURM may show each task its own card alone: then it is number 0 there.
            torch.cuda.set_device(local_rank % torch.cuda.device_count())
    # Trying every algorithm of every layer takes minutes at 1024 pixels, and its choice may differ after a restart.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = exact
    if computes:
        torch.use_deterministic_algorithms(exact)
    # Filling fresh memory guards against reading it; nothing here does, and it costs bandwidth.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    compiled = hardware.compile if hardware.compile is not None else cuda
    number = f":{torch.cuda.current_device()}" if cuda and torch.cuda.device_count() else ""
    device = torch.device(f"cuda{number}" if cuda else "cpu")
    return Machine(
        device,
        precision,
        exact,
        hardware.gpu,
        hardware.devices,
        compiled,
        hardware.activation_checkpointing,
        cuda_graphs=cuda and uses_cuda_graphs(hardware, precision),
    )


def _gpu_name(device: torch.device) -> str | None:
    """None where this machine has no GPU."""
    return torch.cuda.get_device_name(device) if torch.cuda.device_count() else None
