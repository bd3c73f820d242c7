"""LPIPS: trained weights or an error, never silent random ones."""

from pathlib import Path

import lpips
import pytest
import torch

from fluxflow_exp.losses.perceptual import Perceptual

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
PLACES = torch.tensor([[0.0, 0.0], [0.99, 0.99]])


def trunk(path: Path) -> Path:
    """A file as torchvision has it for SqueezeNet, of random weights."""
    state = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).net.state_dict()
    torch.save({"features." + key.split(".", 1)[1]: value for key, value in state.items()}, path)
    return path


def test_without_weights_there_is_an_error_that_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ValueError, match=r"528 MB.*python -c \"import lpips; lpips.LPIPS\(net='vgg'\)\""):
        Perceptual()
    with pytest.raises(ValueError, match="there is no file"):
        Perceptual(weights_file=str(tmp_path / "absent.pth"))


def test_weights_of_a_file_are_the_ones_used(tmp_path: Path) -> None:
    given = trunk(tmp_path / "squeeze.pth")
    loss = Perceptual(net="squeeze", weights_file=str(given))
    reference = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    state = torch.load(given, weights_only=True)
    reference.net.load_state_dict({k: state["features." + k.split(".", 1)[1]] for k in reference.net.state_dict()})
    found = loss(0.5 * IMAGES, IMAGES, PLACES)["lpips"]
    with torch.no_grad():
        torch.testing.assert_close(found, reference(0.5 * IMAGES, IMAGES).flatten())


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    loss = Perceptual(net="alex", weights_file=str(trunk(tmp_path / "squeeze.pth")))
    with pytest.raises(ValueError, match="does not hold the weights of this network"):
        loss(IMAGES, IMAGES, PLACES)


def test_random_weights_are_the_same_after_a_restart_and_draw_nothing() -> None:
    before = torch.get_rng_state()
    first, second = (Perceptual(net="squeeze", pretrained=False)(0.5 * IMAGES, IMAGES, PLACES) for _ in range(2))
    assert torch.equal(first["lpips"], second["lpips"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_crop_is_cut_where_the_places_say() -> None:
    loss = Perceptual(net="squeeze", pretrained=False, crop=32)
    found = loss(0.5 * IMAGES, IMAGES, PLACES)["lpips"]
    whole = Perceptual(net="squeeze", pretrained=False)
    for i, corner in enumerate((slice(0, 32), slice(32, 64))):
        cut = IMAGES[i : i + 1, :, corner, corner]
        assert found[i].item() == pytest.approx(whole(0.5 * cut, cut, PLACES[:1])["lpips"].item(), rel=1e-5)


def test_gradients_reach_the_reconstruction_and_not_the_network() -> None:
    loss = Perceptual(net="squeeze", pretrained=False)
    found = (0.5 * IMAGES).requires_grad_()
    loss(found, IMAGES, PLACES)["lpips"].sum().backward()
    assert found.grad is not None
    assert found.grad.abs().max() > 0
    assert not any(p.requires_grad for p in loss._model.parameters())


def test_images_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 pixels"):
        Perceptual(net="squeeze", pretrained=False)(IMAGES[..., :16], IMAGES[..., :16], PLACES)
