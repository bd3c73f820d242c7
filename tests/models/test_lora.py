"""Adapters: their mathematics against the formula, their files, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fluxflow_exp.models import lora
from fluxflow_exp.models.lora import Adapter, AdapterError, Facts


def part() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.ModuleDict({"query": nn.Linear(6, 4, bias=False), "out": nn.Linear(4, 5), "norm": nn.LayerNorm(5)})
    return nn.ModuleDict({"blocks": nn.ModuleList([inner]), "last": nn.Linear(5, 5)})


def through(module: nn.Module, x: Tensor) -> Tensor:
    block = module.get_submodule("blocks.0")
    for name in ("query", "out", "norm"):
        x = block.get_submodule(name)(x)
    found: Tensor = module.get_submodule("last")(x)
    return found


def adapted(module: nn.Module, names: list[str]) -> Adapter:
    """With all of its numbers drawn, so that it acts."""
    adapter = Adapter(module, rank=2, alpha=3.0, names=names)
    for number, parameter in enumerate(adapter.parameters()):
        parameter.data.normal_(generator=torch.Generator().manual_seed(number))
    return adapter


NAMES = ["blocks.0.query", "blocks.0.out"]


def test_patterns_pick_linear_layers_by_the_names_of_part_and_layer() -> None:
    assert lora.layers("flow", part(), ["flow.blocks.*"]) == NAMES
    assert lora.layers("flow", part(), ["*.out", "*.norm"]) == ["blocks.0.out"]
    assert lora.layers("flow", part(), ["text.*"]) == []


def test_a_new_adapter_changes_nothing_and_its_seed_gives_its_numbers() -> None:
    module, x = part(), torch.randn(3, 6)
    before = through(module, x)
    adapter = Adapter(module, rank=2, alpha=2.0, names=NAMES)
    adapter.initialise(torch.Generator().manual_seed(7))
    assert torch.equal(through(module, x), before)
    down = adapter.state_dict()["blocks.0.query.lora_A.weight"]
    assert float(down.abs().max()) <= 6**-0.5
    again = Adapter(part(), rank=2, alpha=2.0, names=NAMES)
    again.initialise(torch.Generator().manual_seed(7))
    assert torch.equal(again.state_dict()["blocks.0.query.lora_A.weight"], down)


def test_its_state_is_the_two_matrices_of_each_layer_and_its_base_is_the_part_as_it_was() -> None:
    module, plain = part(), part().state_dict()
    adapter = adapted(module, NAMES)
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    assert shapes == {
        "blocks.0.query.lora_A.weight": (2, 6), "blocks.0.query.lora_B.weight": (4, 2),
        "blocks.0.out.lora_A.weight": (2, 4), "blocks.0.out.lora_B.weight": (5, 2),
    }  # fmt: skip
    base = adapter.base()
    assert list(base) == list(plain)
    assert all(torch.equal(base[name], plain[name]) for name in plain)


def test_merged_is_w_plus_alpha_by_rank_b_a_and_computes_the_same() -> None:
    module, x = part(), torch.randn(3, 6)
    plain = part().state_dict()
    adapter = adapted(module, NAMES)
    merged, own = adapter.merged(), adapter.state_dict()
    product = own["blocks.0.out.lora_B.weight"] @ own["blocks.0.out.lora_A.weight"]
    assert torch.equal(merged["blocks.0.out.weight"], plain["blocks.0.out.weight"] + 1.5 * product)
    assert torch.equal(merged["last.weight"], plain["last.weight"])
    whole = part()
    whole.load_state_dict(merged)
    torch.testing.assert_close(through(whole, x), through(module, x))
    assert not torch.allclose(through(whole, x), through(part(), x))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    adapter = adapted(part(), NAMES)
    facts = Facts(
        rank=2, alpha=3.0, targets=["flow_processor.*"], base={"flow_processor": lora.base_digest(part().state_dict())}
    )
    lora.publish(tmp_path / "a.lora.safetensors", {"flow_processor": adapter.state_dict()}, facts)
    return tmp_path / "a.lora.safetensors"


def test_a_file_says_what_it_was_trained_on_and_is_applied_by_its_scale(written: Path) -> None:
    facts, parts = lora.read(written)
    assert (facts.rank, facts.alpha, facts.targets) == (2, 3.0, ["flow_processor.*"])
    assert load_file(written).keys() == {f"flow_processor.{name}" for name in parts["flow_processor"]}
    for scale in (0.0, 0.5, 1.0):
        module = part()
        lora.apply({"flow_processor": module}, written, scale=scale)
        wanted = lora.merged(part().state_dict(), parts["flow_processor"], scale=scale * 1.5)
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in module.state_dict().items())


def test_another_base_is_refused_before_a_weight_is_touched(written: Path) -> None:
    other = part()
    other.get_submodule("last").bias.data[0] += 1e-6  # type: ignore[union-attr, operator]
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(AdapterError, match="was trained on another model: its flow_processor had the digest"):
        lora.apply({"flow_processor": other}, written, scale=1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def rewritten(path: Path, change: dict[str, object] | None = None, **tensors: Tensor) -> None:
    facts, _ = lora.read(path)
    metadata = {lora.KEY: json.dumps({**vars(facts), **(change or {})})}
    save_file({**load_file(path), **tensors}, path, metadata)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 0}, "rank: Input should be greater than or equal to 1"),
        ({"format": 2}, "format: Input should be 1"),
        ({"base": {"flow_processor": "abc"}}, "base.flow_processor: String should match"),
        ({"base": {"compressor": "0" * 64}}, "adapts 'compressor', which no model has"),
        ({"rank": 3}, r"out.lora_A.weight is \(2, 4\), which does not fit \(5, 4\)"),
    ],
)
def test_facts_that_no_run_writes_are_refused(written: Path, change: dict[str, object], said: str) -> None:
    rewritten(written, change)
    with pytest.raises(AdapterError, match=said):
        lora.apply({"flow_processor": part()}, written, scale=1.0)


def test_tensors_of_no_layer_are_refused(written: Path) -> None:
    rewritten(written, None, **{"flow_processor.blocks.1.out.lora_A.weight": torch.zeros(2, 4)})
    with pytest.raises(AdapterError, match=r"blocks.1.out.lora_A.weight belongs to no layer of the model"):
        lora.apply({"flow_processor": part()}, written, scale=1.0)


def test_of_a_run_folder_its_only_adapter_is_meant(written: Path, tmp_path: Path) -> None:
    inside = tmp_path / "run" / "weights" / f"a{lora.SUFFIX}"
    inside.parent.mkdir(parents=True)
    with pytest.raises(AdapterError, match=r"run holds no adapter"):
        lora.file_of(tmp_path / "run")
    inside.write_bytes(written.read_bytes())
    assert lora.file_of(tmp_path / "run") == lora.file_of(inside.parent) == lora.file_of(inside) == inside
    inside.with_name(f"b{lora.SUFFIX}").write_bytes(b"")
    with pytest.raises(AdapterError, match=r"holds several: name one of .*a\.lora\.safetensors, .*b\.lora"):
        lora.file_of(tmp_path / "run")


def test_what_is_no_adapter_is_told(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="there is no file"):
        lora.read(tmp_path / "none")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(AdapterError, match="is not a whole safetensors file"):
        lora.read(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(AdapterError, match="is no adapter of this package"):
        lora.read(tmp_path / "other")
