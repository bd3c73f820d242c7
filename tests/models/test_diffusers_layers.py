"""The forms that GPUs take of diffusers' layers, against torch's own, on a CPU."""

from functools import partialmethod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fluxflow_exp.models.diffusers_layers import EndConv2d, GroupNorm, NormSiLU, Stage, Upsample
from fluxflow_exp.models.layers import compile_regions
from tests.helpers.autoencoders import save


def derivatives(call: object, x: Tensor, module: nn.Module) -> list[Tensor]:
    """What `call` gives of `x`, and the gradients of its weighted sum by `x` and the parameters."""
    x = x.clone().requires_grad_(True)
    found = call(x)  # type: ignore[operator]
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    return [found, *torch.autograd.grad((found * weights).sum(), [x, *module.parameters()])]


def alike(first: list[Tensor], second: list[Tensor], tolerance: float = 1e-4) -> None:
    for mine, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_a_group_norm_from_the_sums_of_channels_is_torchs(shift: float) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(3, 12, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 12, 6, 5) + shift
    alike(derivatives(norm.by_channels, x, norm), derivatives(norm, x, norm), 1e-4 if shift == 0 else 1e-3)
    assert norm.by_channels(x.bfloat16()).dtype == torch.bfloat16
    silu = NormSiLU(3, 12)
    assert torch.equal(silu(x), nn.functional.silu(nn.functional.group_norm(x, 3, silu.weight, silu.bias, silu.eps)))


@pytest.mark.parametrize("bias", [True, False])
def test_upsampling_by_places_is_a_convolution_of_enlarged_pixels(bias: bool) -> None:
    torch.manual_seed(0)
    upsample = Upsample(nn.Conv2d(4, 6, 3, padding=1, bias=bias))
    x = torch.randn(2, 4, 5, 3)
    alike(derivatives(upsample.by_places, x, upsample), derivatives(upsample, x, upsample))
    images = x.contiguous(memory_format=torch.channels_last)
    assert upsample.by_places(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels_in", "channels_out"), [(3, 16), (16, 3)])
def test_a_convolution_at_an_end_fills_up_and_cuts_off(channels_in: int, channels_out: int) -> None:
    torch.manual_seed(0)
    conv = EndConv2d(channels_in, channels_out, 3, padding=1)
    x = torch.randn(2, channels_in, 5, 4)
    filled = conv.aligned(x)
    assert filled.shape[1] == 8 * -(-channels_out // 8)
    alike(derivatives(lambda x: conv.aligned(x)[:, :channels_out], x, conv), derivatives(conv, x, conv))


def _as_on_a_gpu(norm: GroupNorm, x: Tensor) -> Tensor:
    return norm.by_channels(x) if x.ndim == 4 else nn.GroupNorm.forward(norm, x)


@pytest.mark.slow
def test_compiled_stages_give_what_they_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another way than a CPU's: that of GPUs, through torch's compiler without its code for machines."""
    from tests.models.test_diffusers_vae import halves

    for kind in ("AutoencoderKL", "AutoencoderDC"):
        save(tmp_path / kind, kind)
        (compressor, expander), images = halves(tmp_path / kind), torch.rand(2, 3, 8, 8) * 2 - 1
        with torch.no_grad():
            wanted = expander(compressor(images).mode())
        with monkeypatch.context() as patched:
            patched.setattr(GroupNorm, "forward", _as_on_a_gpu)
            patched.setattr(Upsample, "forward", Upsample.by_places)
            patched.setattr(EndConv2d, "forward", lambda self, x: self.aligned(x)[:, : self.out_channels])
            patched.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
            compile_regions(compressor)
            compile_regions(expander)
            found = expander(compressor(images).mode())
            found.sum().backward()
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-4, atol=1e-4)
        assert all(p.grad is not None for half in (compressor, expander) for p in half.parameters() if p.requires_grad)
        assert any(isinstance(module, Stage) for module in expander.modules()) == (kind == "AutoencoderDC")
