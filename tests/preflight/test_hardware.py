"""Hardware choices that no machine, or not this one, can take."""

from dataclasses import replace

from fluxflow_exp.config.schema import Hardware
from fluxflow_exp.preflight.hardware import hardware_problems, parallel_problems


def test_unknown_words_are_refused():
    found = parallel_problems(Hardware(name="x", device="tpu", precision="int8"))
    assert len(found) == 2
    assert "'tpu'" in found[0]
    assert "'int8'" in found[1]


def test_graphs_take_gpus_and_no_exchange_within_a_pass():
    one = Hardware(name="x", device="cuda", precision="bf16")
    assert parallel_problems(replace(one, devices=2, cuda_graphs=True)) == []
    (line,) = parallel_problems(replace(one, devices=2, cuda_graphs=True, parallel="fsdp"))
    assert "hardware.parallel=ddp" in line
    (line,) = hardware_problems(replace(one, device="cpu", cuda_graphs=True))
    assert "needs a CUDA GPU" in line
