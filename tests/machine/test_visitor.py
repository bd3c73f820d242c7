"""A model that leaves the GPU between its calls."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fluxflow_exp.machine.visitor import make_visitor


class Noted(nn.Module):
    """Notes where it was sent, and where it was when it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = ["here"]

    def to(self, device: Any, **_: Any) -> "Noted":  # type: ignore[override]
        self.seen.append(str(device))
        return self

    def forward(self, fails: bool = False) -> str:
        if fails:
            raise RuntimeError("planted")
        return self.seen[-1]


def _machine(device: str) -> Any:
    return SimpleNamespace(device=torch.device(device), memory_format=torch.preserve_format)


def test_it_is_on_the_gpu_while_it_computes_and_nowhere_else() -> None:
    module = Noted()
    make_visitor(module, _machine("cuda:0"))
    assert module.seen[-1] == "cpu"
    assert module() == "cuda:0"
    assert module.seen[-1] == "cpu"
    with pytest.raises(RuntimeError, match="planted"):
        module(fails=True)
    assert module.seen[-1] == "cpu"


def test_where_there_is_no_gpu_it_stays() -> None:
    module = Noted()
    make_visitor(module, _machine("cpu"))
    assert module() == "here"
