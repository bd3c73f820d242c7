"""What GPUs compute in another way, against the plain way; and what is compiled."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fluxflow_exp.models.layers import (
    AlignedConv2d,
    Chain,
    Conv2d,
    DownConv2d,
    _shuffle_innermost,
    _unshuffle_innermost,
    compile_regions,
    digest_of_kernels,
    make_activation,
    set_up_compilation,
)


def pair(channels_in: int, channels_out: int, **options: int | bool) -> tuple[AlignedConv2d, nn.Conv2d]:
    """An aligned and a plain convolution with the same weights, in float64."""
    aligned = AlignedConv2d(channels_in, channels_out, 3, padding=1, **options).double()  # type: ignore[arg-type]
    plain = nn.Conv2d(channels_in, channels_out, 3, padding=1, **options).double()  # type: ignore[arg-type]
    plain.load_state_dict(aligned.state_dict())
    return aligned, plain


@pytest.mark.parametrize(("channels_in", "channels_out"), [(5, 36 * 5), (36, 66 * 5), (5, 36), (8, 40), (3, 7)])
def test_alignment_adds_zeros_and_changes_nothing_else(channels_in: int, channels_out: int) -> None:
    aligned, plain = pair(channels_in, channels_out)
    x = torch.randn(2, channels_in, 6, 5, dtype=torch.float64)
    found, wanted = aligned.aligned(x), plain(x)
    assert found.shape[1] % (40 if channels_out % 5 == 0 else 8) == 0
    torch.testing.assert_close(found[:, :channels_out], wanted)
    assert not found[:, channels_out:].any()
    torch.testing.assert_close(aligned(x), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("activation", ["bezier", "silu", "gelu", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_aligned_layers_in_a_row_have_the_plain_ones_values_and_gradients(activation: str, bias: bool) -> None:
    act, expansion = make_activation(activation, dim=1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    layers = [pair(5, 36 * expansion, bias=bias), pair(36, 66 * expansion, bias=bias), pair(66, 12)]
    images = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    grad = torch.randn(2, 12, 6, 7, dtype=torch.float64)
    results = []
    for kind in (0, 1):
        x = images.clone().requires_grad_()
        y = x
        for index, both in enumerate(layers):
            layer = both[kind]
            y = layer.aligned(y) if isinstance(layer, AlignedConv2d) else layer(y)
            y = act(y) if index < 2 else y
            if kind == 0 and index < 2:
                assert not y[:, layer.out_channels // expansion :].any(), "zeros stay zeros"
        (y[:, :12] * grad).sum().backward()
        assert x.grad is not None
        results.append([y[:, :12], x.grad, *(p.grad for both in layers for p in both[kind].parameters())])
    assert len(results[0]) == (8 if bias else 6)
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_convolution_without_its_bias() -> None:
    layer = Conv2d(3, 5, 3, padding=1)
    x = torch.randn(2, 3, 6, 7)
    convolved, bias = layer.split(x)
    assert bias is not None
    torch.testing.assert_close(convolved + bias.view(-1, 1, 1), layer(x))


@pytest.mark.parametrize("kernel", [2, 4, 6, 8, 10])
def test_a_halving_convolution_over_pairs_of_pixels_is_the_strided_one(kernel: int) -> None:
    mine = DownConv2d(5, 15, kernel).double()
    plain = nn.Conv2d(5, 15, kernel, stride=2, padding=kernel // 2 - 1).double()
    plain.load_state_dict(mine.state_dict())
    x = torch.randn(2, 5, 12, 16, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 15, 6, 8, dtype=torch.float64)
    convolved, bias = mine.split(x)
    assert bias is not None
    found = (convolved + bias.view(-1, 1, 1))[:, :15]
    torch.testing.assert_close(found, plain(x))
    torch.testing.assert_close(mine(x), plain(x), rtol=0, atol=0)
    wanted = torch.autograd.grad(plain(x), (x, plain.weight), grad)
    torch.testing.assert_close(torch.autograd.grad(found, (x, mine.weight), grad), wanted)


def test_a_kernel_that_does_not_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be even, not 3"):
        DownConv2d(3, 5, 3)


def test_pixels_are_shuffled_as_by_torch_with_channels_innermost() -> None:
    x = torch.randn(2, 12, 3, 5).contiguous(memory_format=torch.channels_last)
    up = _shuffle_innermost(x)
    assert torch.equal(up, F.pixel_shuffle(x, 2))
    down = _unshuffle_innermost(up)
    assert torch.equal(down, x)
    for made in (up, down):
        assert made.is_contiguous(memory_format=torch.channels_last)


def test_the_outermost_regions_are_compiled_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled.append(self))
    inner = Chain(nn.Linear(2, 2), Chain(nn.Linear(2, 2)))
    model = nn.Sequential(nn.Linear(2, 2), inner)
    compile_regions(model)
    assert compiled == [inner]


def test_a_chain_is_compiled_as_one_graph() -> None:
    chain, graphs = Chain(nn.Linear(2, 3), nn.SiLU(), nn.Linear(3, 1)), []

    def record(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    x = torch.randn(4, 2)
    wanted = chain(x)
    chain.compile(backend=record)
    torch.testing.assert_close(chain(x), wanted)
    assert len(graphs) == 1


def test_a_region_that_was_trained_without_a_gan_may_be_walked_twice_with_one() -> None:
    """As an adaptive weight does. With torch 2.11 the second walk fails where saved tensors are given away."""
    set_up_compilation(exact=False)
    assert not torch._functorch.config.donated_buffer
    region = Chain(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4))
    compile_regions(region)
    x = torch.randn(3, 4)
    region(x).square().sum().backward()
    region.zero_grad()
    loss = region(x).square().sum()
    (gradient,) = torch.autograd.grad(loss, region[0].weight, retain_graph=True)  # type: ignore[arg-type]
    loss.backward()
    torch.testing.assert_close(region[0].weight.grad, gradient)


def test_torch_does_not_take_code_of_other_kernels_from_its_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch.compiler.config

    from fluxflow_exp import models

    (tmp_path / "norm_triton.py").write_text("eps = 1e-6")
    one = digest_of_kernels(tmp_path)
    (tmp_path / "norm_triton.py").write_text("eps = 1e-5")
    assert digest_of_kernels(tmp_path) != one
    monkeypatch.setattr(torch.compiler.config, "cache_key_tag", "mine")
    for _ in range(2):
        set_up_compilation(exact=False)
    assert torch.compiler.config.cache_key_tag == "mine" + digest_of_kernels(Path(models.__path__[0]))
