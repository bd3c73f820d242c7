"""Muon against its definition, and AdamW for the rest against torch's."""

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.machine.cuda_graphs import CudaGraphs
from fluxflow_exp.models.flow import FlowProcessor
from fluxflow_exp.optimizers.muon import SCALE, Muon, orthogonalised
from tests.conftest import toy
from tests.helpers.children import StopAfter, finish, finish_ranks, moments
from tests.helpers.outcomes import assert_same, losses

HIDDEN = ["blocks.*.weight"]
muon = partial(Muon, betas=[0.9, 0.99])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)) for _ in range(2))

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embed(x)
        for block in self.blocks:
            y = y + block(y)
        return y.square().mean()


def trained(net: Net, optimizer: torch.optim.Optimizer, updates: int, *, first: int = 0) -> None:
    for index in range(first, first + updates):
        optimizer.zero_grad()
        net.loss(torch.randn(4, 6, generator=torch.Generator().manual_seed(index))).backward()
        optimizer.step()


def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("shape", [(3, 8, 16), (2, 16, 8), (1, 32, 32)])
def test_singular_values_come_near_one_and_their_vectors_stay(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalised(matrices)
    values = torch.diagonal(u.mT @ found @ vh.mT, dim1=-2, dim2=-1)
    assert values.min() > 0.3  # the smallest singular value of a square matrix needs more steps
    assert values.max() < 1.3
    torch.testing.assert_close(u * values[:, None] @ vh, found, atol=1e-4, rtol=0)
    assert not orthogonalised(torch.zeros(shape)).any()


def test_the_first_update_of_a_matrix_is_its_gradient_made_orthogonal() -> None:
    model = net()
    optimizer = muon(model.named_parameters(), lr=0.1, weight_decay=0.5, hidden=HIDDEN)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(model, optimizer, 1)
    for name in ("blocks.0.0.weight", "blocks.1.1.weight"):
        matrix = dict(model.named_parameters())[name]
        change = SCALE * 4 * orthogonalised(matrix.grad[None])[0]  # 4: the root of the longer side
        torch.testing.assert_close(matrix.detach(), before[name] * (1 - 0.1 * 0.5) - 0.1 * change)


def test_a_convolution_is_the_matrix_of_its_filters() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(6, 4, 3) for _ in range(2)), nn.Conv2d(2, 40, 3)).to(
        memory_format=torch.channels_last
    )
    optimizer = muon(model.named_parameters(), lr=0.1, weight_decay=0.5, hidden=["*.weight"])
    before = [layer.weight.detach().clone() for layer in model]
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for layer, weight, side in zip(model, before, [54, 54, 40], strict=True):  # the longer side
        change = SCALE * math.sqrt(side) * orthogonalised(layer.weight.grad.flatten(1)[None])[0]
        torch.testing.assert_close(layer.weight.detach(), weight * (1 - 0.1 * 0.5) - 0.1 * change.view_as(weight))
    assert len(optimizer.hidden) == 3


def test_of_the_compact_autoencoder_it_takes_all_convolutions_of_the_stages_but_the_first(tmp_path: Path) -> None:
    values = toy(tmp_path, "optimizer=muon", "model=compact")
    parts = {name: instantiate(values["model"][name]) for name in ("compressor", "expander", "discriminator")}
    named = [(f"{part}.{name}", p) for part, module in parts.items() for name, p in module.named_parameters()]
    hidden = instantiate(values["optimizer"])(named).hidden
    rest = {name for name, parameter in named if parameter.ndim == 4 and parameter not in hidden}
    ends = {"compressor.stages.0.0.conv", "compressor.head.1", "expander.stem", "expander.head.1"}
    assert {name for name in rest if "discriminator" not in name} == {f"{name}.weight" for name in ends}
    assert len(hidden) == 2 * 2 * 2 * 2 + 3  # Down and Up in two stages, two convolutions in each of two blocks


def test_the_rest_is_updated_as_adamw_does() -> None:
    model, other = net(), net()
    rest = [p for name, p in other.named_parameters() if "blocks" not in name or "bias" in name]
    trained(model, muon(model.named_parameters(), lr=0.01, hidden=[]), 5)
    trained(other, torch.optim.AdamW(other.parameters(), lr=0.01, betas=(0.9, 0.99), fused=True), 5)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    hidden = muon(net().named_parameters(), lr=0.01, hidden=HIDDEN).hidden
    assert len(hidden) == len(list(model.parameters())) - len(rest) == 4


def test_of_the_flow_transformer_skips_are_orthogonal_and_modulation_is_not() -> None:
    options = dict.fromkeys(("long_skips", "shared_modulation", "value_residual"), True)
    flow = FlowProcessor(vae_dim=2, width=8, depth=3, heads=1, text_dim=4, **options)  # type: ignore[arg-type]
    named = dict(nn.ModuleDict({"flow_processor": flow}).named_parameters())
    hidden = muon(named.items(), lr=0.1).hidden
    prefix = "flow_processor.blocks.2."
    inner = {f"{part}.{layer}.weight" for part in ("attention", "cross") for layer in ("query", "key_value", "out")}
    last = {name.removeprefix(prefix) for name, p in named.items() if p in hidden and name.startswith(prefix)}
    assert last == {"skip.weight", "mlp.0.weight", "mlp.2.weight", *inner}
    assert named["flow_processor.shared_modulation.weight"] not in hidden
    assert len(hidden) == 3 * 8 + 1


def test_what_is_saved_continues_bit_for_bit() -> None:
    whole, halves = net(), net()
    trained(whole, muon(whole.named_parameters(), lr=0.01, hidden=HIDDEN), 6)
    first = muon(halves.named_parameters(), lr=0.01, hidden=HIDDEN)
    trained(halves, first, 3)
    second = muon(halves.named_parameters(), lr=0.5, hidden=HIDDEN)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    trained(halves, second, 3, first=3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_an_update_that_is_not_finite_leaves_weights_and_state_as_they_are() -> None:
    model = net()
    optimizer = muon(model.named_parameters(), lr=0.01, hidden=HIDDEN)
    trained(model, optimizer, 2)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()["state"]), before, rtol=0, atol=0)
    optimizer.found_inf = torch.zeros(())
    trained(model, optimizer, 1, first=2)
    assert not torch.equal(model.embed.weight, before[0]["embed.weight"])


def test_groups_of_one_shape_give_the_same_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    together, alone = net(), net()
    trained(together, muon(together.named_parameters(), lr=0.01, hidden=HIDDEN), 3)
    monkeypatch.setattr("fluxflow_exp.optimizers.muon.BATCH", 1)
    trained(alone, muon(alone.named_parameters(), lr=0.01, hidden=HIDDEN), 3)
    for mine, theirs in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"betas": [0.9, 1.0]}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        muon(net().named_parameters(), lr=0.1, **wrong)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an undisturbed toy pipeline of one rank."""
    root = tmp_path_factory.mktemp("alone")
    assert finish(toy(root, "optimizer=muon"), root / "log") == 0, (root / "log").read_text()
    return root / "quickstart"


@pytest.mark.slow
def test_killed_at_many_moments_a_run_ends_with_the_same_bytes(tmp_path: Path, alone: Path) -> None:
    values, log = toy(tmp_path, "optimizer=muon"), tmp_path / "log"
    codes = [finish(values, log, moment) for moment in moments(13, seed=7)]
    assert codes.count(-9) >= 10
    assert finish(values, log) == 0, log.read_text()
    assert_same(tmp_path / "quickstart", alone)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_ranks_train_as_one_does(tmp_path: Path, alone: Path, count: int) -> None:
    log = tmp_path / "log"
    assert finish_ranks(toy(tmp_path, "optimizer=muon"), log, count) == [0] * count, (tmp_path / "log.0").read_text()
    assert losses(tmp_path / "quickstart") == pytest.approx(losses(alone), rel=2e-3, abs=2e-3)


@pytest.mark.slow
def test_a_sharded_transformer_trains_alike_and_loads_on_one_rank(tmp_path: Path, alone: Path) -> None:
    fsdp = ["optimizer=muon", "hardware.parallel=fsdp", "hardware.devices=2", "checkpoint.every_updates=1"]
    log = tmp_path / "log"
    assert finish_ranks(toy(tmp_path, *fsdp), log, 2, StopAfter(19)) == [143, 143], (tmp_path / "log.0").read_text()
    assert finish(toy(tmp_path, "optimizer=muon"), log) == 0, log.read_text()
    assert losses(tmp_path / "quickstart") == pytest.approx(losses(alone), rel=2e-3, abs=2e-3)


class Calls(CudaGraphs):
    """In place of graphs where there is no GPU: what would be replayed, by key."""

    def run(self, pass_: Any, arguments: Any, *, key: Any = None) -> Any:
        self.met[key] += 1
        return pass_(*arguments)


def test_each_batch_of_matrices_is_a_pass_that_may_be_replayed() -> None:
    plain, model = net(), net()
    optimizer = muon(model.named_parameters(), lr=0.1, hidden=HIDDEN)
    optimizer.graphs = Calls()
    trained(plain, muon(plain.named_parameters(), lr=0.1, hidden=HIDDEN), 2)
    trained(model, optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert [*optimizer.graphs.met.values()] == [2, 2]  # (16, 8) and (8, 16)


def test_nothing_is_replayed_where_a_matrix_has_no_gradient() -> None:
    model = net()
    optimizer = muon(model.named_parameters(), lr=0.1, hidden=HIDDEN)
    optimizer.graphs = Calls()
    for parameter in [*model.parameters()][:-2]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not optimizer.graphs.met
