"""A model that is on the GPU while it computes, and on the host otherwise: one that is asked seldom."""

from torch import nn

from fluxflow_exp.machine.hardware import Machine


def make_visitor(module: nn.Module, machine: Machine) -> None:
    """From here on each call of `module` fetches its weights to the GPU, and takes them away again."""
    if machine.device.type == "cpu":
        return

    def come(*_: object) -> None:
        module.to(machine.device, memory_format=machine.memory_format)  # type: ignore[call-overload]

    def leave(*_: object) -> None:
        module.to("cpu", memory_format=machine.memory_format)  # type: ignore[call-overload]

    module.register_forward_pre_hook(come)
    module.register_forward_hook(leave, always_call=True)
    leave()
