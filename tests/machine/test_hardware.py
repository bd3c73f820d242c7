"""Hardware choices and what they resolve to."""

from dataclasses import replace

import pytest
import torch

from fluxflow_exp.config.schema import Hardware
from fluxflow_exp.machine.hardware import prepare, uses_cuda_graphs


@pytest.fixture(autouse=True)
def _settings():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_a_cpu_is_exact_and_fp32_by_default():
    machine = prepare(Hardware(name="cpu", device="cpu", precision="auto"))
    assert (machine.device.type, machine.precision, machine.exact) == ("cpu", "fp32", True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not machine.scaler().is_enabled()
    assert "bit for bit" in machine.describe()


def test_exact_can_be_given_up_and_is_said():
    machine = prepare(Hardware(name="cpu", device="cpu", precision="bf16", exact=False))
    assert not torch.are_deterministic_algorithms_enabled()
    assert "to rounding" in machine.describe()
    with machine.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("precision", "tf32", "convolutions"),
    [("bf16", False, True), ("fp32", False, False), ("fp32", True, True)],
)
def test_exact_runs_and_half_precision_keep_matrix_units(precision: str, tf32: bool, convolutions: bool) -> None:
    prepare(Hardware(name="x", device="cuda", precision=precision, exact=True, tf32=tf32, compile=False))
    assert torch.backends.cudnn.allow_tf32 is convolutions
    assert torch.backends.cuda.matmul.allow_tf32 is tf32


@pytest.mark.parametrize(("gpus", "threads", "wanted"), [(1, None, 1), (1, 3, 3), (0, None, 2), (0, 3, 3)])
def test_beside_a_gpu_one_thread_copies_pictures(
    monkeypatch: pytest.MonkeyPatch, gpus: int, threads: int | None, wanted: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for name, value in (("set_device", None), ("current_device", 0)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        prepare(Hardware(name="x", device="cuda", precision="bf16", threads=threads), computes=False)
        assert torch.get_num_threads() == wanted
    finally:
        torch.set_num_threads(before)


def test_fp16_scales_its_loss():
    assert prepare(Hardware(name="cpu", device="cpu", precision="fp16")).scaler().is_enabled()


def test_one_gpu_replays_graphs_without_loss_scaling_and_several_where_it_is_asked_for():
    one = Hardware(name="x", device="cuda", precision="bf16")
    assert uses_cuda_graphs(one, "bf16")
    assert not uses_cuda_graphs(one, "fp16")
    assert not uses_cuda_graphs(replace(one, devices=2), "bf16")
    assert uses_cuda_graphs(replace(one, devices=2, cuda_graphs=True), "bf16")
    assert not uses_cuda_graphs(replace(one, devices=2, parallel="fsdp"), "bf16")
    assert not uses_cuda_graphs(replace(one, compile=False), "bf16")
    assert uses_cuda_graphs(replace(one, compile=False, cuda_graphs=True), "bf16")
