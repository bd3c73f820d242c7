"""Checks of the hardware choices: on any machine, and against this one."""

import torch

from fluxflow_exp.config.schema import Hardware
from fluxflow_exp.machine.hardware import PRECISIONS, uses_cuda_graphs


def parallel_problems(hardware: Hardware) -> list[str]:
    """Return a line for each thing that cannot be asked for on any machine."""
    problems = []
    if hardware.device not in ("auto", "cpu", "cuda"):
        problems.append(f"hardware.device is 'auto', 'cpu' or 'cuda' (one GPU), not {hardware.device!r}")
    if hardware.precision not in ("auto", *PRECISIONS):
        problems.append(f"hardware.precision is auto, fp32, bf16 or fp16, not {hardware.precision!r}")
    if hardware.slurm.signal_seconds >= 60 * hardware.slurm.minutes:
        problems.append(
            f"hardware.slurm.signal_seconds={hardware.slurm.signal_seconds} is no less than the time limit "
            f"(hardware.slurm.minutes={hardware.slurm.minutes}): a job would be stopped before it begins"
        )
    if hardware.parallel not in ("ddp", "fsdp"):
        problems.append(f"hardware.parallel is 'ddp' or 'fsdp', not {hardware.parallel!r}")
    if hardware.parallel == "fsdp" and hardware.ranks == 1:
        problems.append("hardware.parallel=fsdp spreads a model over ranks, and there is one: set hardware.devices")
    if hardware.parallel == "fsdp" and hardware.precision == "fp16":
        problems.append("hardware.parallel=fsdp goes with precision bf16 or fp32: loss scaling would differ by rank")
    if hardware.cuda_graphs and not uses_cuda_graphs(hardware, hardware.precision):
        problems.append("hardware.cuda_graphs=true goes with hardware.parallel=ddp and precision bf16 or fp32")
    return problems


def hardware_problems(hardware: Hardware) -> list[str]:
    """Return a line for each thing that `hardware` asks for and this machine lacks."""
    problems = []
    if hardware.device == "cuda" and not torch.cuda.is_available():
        problems.append(
            f"hardware={hardware.name} needs a CUDA GPU and this machine shows none. "
            "Start it where the GPU is (nvidia-smi lists it), or choose hardware=cpu or hardware=auto"
        )
    elif hardware.device != "cpu" and 0 < torch.cuda.device_count() < hardware.devices:
        problems.append(
            f"hardware.devices={hardware.devices}, and this machine shows {torch.cuda.device_count()} CUDA GPUs"
        )
    if hardware.cuda_graphs and (hardware.device == "cpu" or not torch.cuda.is_available()):
        problems.append("hardware.cuda_graphs=true needs a CUDA GPU")
    return problems
