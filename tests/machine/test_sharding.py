"""What a checkpoint on the host gives back to a card. Sharding on ranks: test_ranks.py."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from fluxflow_exp.machine import sharding
from fluxflow_exp.optimizers.muon import Muon
from fluxflow_exp.schedules import Curve
from fluxflow_exp.trainers.player import Player


def test_a_tensor_goes_to_the_device_of_its_reference_and_what_is_none_stays() -> None:
    reference = torch.empty(3, device="meta")
    for tensor in (torch.zeros(3), torch.zeros(())):
        assert sharding.like(tensor, reference).device == reference.device
    assert sharding.like(7, reference) == 7
    assert sharding.like(None, reference) is None


def test_counts_of_steps_lie_where_their_weights_do_after_a_checkpoint_on_the_host() -> None:
    """A fused optimizer's kernel on a GPU reads them there; of a Muon torch does not move them by itself."""

    def player(device: str) -> Player:
        return Player(
            "flow",
            {"flow_processor": nn.Linear(4, 4, device=device)},
            optimizer=lambda named: Muon(named, lr=0.1, betas=[0.9, 0.99]),
            schedule=lambda optimizer: Curve(optimizer, lambda update: 1.0),
            ema_decay=None,
            clip=None,
        )

    before = player("cpu")
    before.parts["flow_processor"](torch.ones(1, 4)).sum().backward()
    before.apply(torch.amp.GradScaler("cpu", enabled=False))
    saved = before.state_dict()
    after = player("meta")
    after.load_state_dict(saved)
    counts = [state["step"] for state in after.optimizer.state.values()]
    assert counts
    assert all(isinstance(each, Tensor) and each.device.type == "meta" for each in counts)


def test_a_part_keeps_no_memory_of_the_whole() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        reference = distribute_tensor(torch.zeros(4, 4), init_device_mesh("cpu", (1,)), [Shard(0)])
        given = torch.arange(16.0).view(4, 4)
        made = sharding.local(sharding.like(given, reference))
        assert torch.equal(made, given)
        assert made.data_ptr() != given.data_ptr()
    finally:
        dist.destroy_process_group()
