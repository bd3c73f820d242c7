"""LPIPS (Zhang et al. 2018): distance of two images in the features of an image classifier."""

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from fluxflow_exp.config.bounds import PositiveFloat, PositiveInt
from fluxflow_exp.losses.terms import Terms, per_sample
from fluxflow_exp.machine import network

Network = Literal["vgg", "alex", "squeeze"]
# torchvision's classifiers: file in the torch hub cache, size for the message
TRUNKS = {
    "vgg": ("vgg16-397923af.pth", "528 MB"),
    "alex": ("alexnet-owt-7be5be79.pth", "233 MB"),
    "squeeze": ("squeezenet1_1-b8a52dc0.pth", "5 MB"),
}
DOWNLOADS = "https://download.pytorch.org/models/"
SMALLEST = 32  # pixels a side: below, a network's last features vanish


class Perceptual:
    """`weight` × LPIPS between reconstructions and images.

    Trained classifier weights come from `weights_file` (torchvision's state dict), else from the torch hub cache,
    where they are downloaded to if they are missing. `pretrained: false` takes random ones: for timing and tests
    only. It may be evaluated at every `every`-th update, then `every` times as strongly, and on a square of `crop`
    pixels a side, cut anywhere. ValueError: the weights are neither here nor to be had.
    """

    def __init__(
        self,
        *,
        net: Network = "vgg",
        weight: PositiveFloat = 0.1,
        pretrained: bool = True,
        weights_file: str | None = None,
        every: PositiveInt = 1,
        crop: Annotated[int, Ge(SMALLEST)] | None = None,
    ) -> None:
        if weight <= 0 or every < 1 or (crop is not None and crop < SMALLEST):
            raise ValueError(
                f"perceptual: weight must be positive, every at least 1, crop at least {SMALLEST}, "
                f"not {weight}, {every}, {crop}"
            )
        self.net, self.every, self.crop = net, every, crop
        self.weight = weight * every
        self.pretrained = pretrained
        self.file = _trunk(net, weights_file) if pretrained else None
        self._model: Any = None

    def due(self, update: int) -> bool:
        return update % self.every == 0

    def __call__(self, reconstruction: Tensor, images: Tensor, places: Tensor) -> Terms:
        """Images (batch, 3, height, width) in [-1, 1]; `places` (batch, 2) in [0, 1), on the CPU: where a crop is cut.

        Gives `lpips`, (batch,). ValueError: the images are smaller than 32 pixels a side.
        """
        if min(images.shape[-2:]) < SMALLEST:
            raise ValueError(f"the perceptual loss needs images of at least {SMALLEST} pixels a side")
        if self.crop is not None:
            reconstruction, images = (_cut(x, places, self.crop) for x in (reconstruction, images))
        return {"lpips": per_sample(self.network(images.device)(reconstruction, images).float())}

    def network(self, device: torch.device) -> Any:
        """The lpips model, built at its first use."""
        if self._model is None:
            layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
            self._model = self._build().to(device, memory_format=layout)
        return self._model

    def _build(self) -> Any:
        import lpips

        # The random trunk of pretrained=false must be the same after a restart, and disturb no other numbers.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's deprecated arguments, used inside lpips
            torch.manual_seed(0)
            model = lpips.LPIPS(net=self.net, pnet_rand=True, verbose=False)
        if self.file is not None:
            _fill(model.net, torch.load(self.file, map_location="cpu", weights_only=True), self.file)
        return model.eval().requires_grad_(False)


def cached_file(net: Network) -> Path:
    """Where the torch hub cache has the classifier's weights, if it has them."""
    return Path(torch.hub.get_dir()) / "checkpoints" / TRUNKS[net][0]


def _trunk(net: Network, given: str | None) -> Path:
    """The file with the classifier's weights."""
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file() and path == cached_file(net):
            raise ValueError(
                f"the perceptual loss needs {path.name} ({TRUNKS[net][1]}), which is not in {path.parent}. "
                f'Where there is a network: python -c "import lpips; lpips.LPIPS(net={net!r})"'
            )
        if not path.is_file():
            raise ValueError(f"perceptual.weights_file: there is no file {path}")
        return path
    name, size = TRUNKS[net]
    cached = cached_file(net)
    if cached.is_file():
        return cached
    try:
        network.check(DOWNLOADS)
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(DOWNLOADS + name, str(cached))
    except OSError as error:
        raise ValueError(
            f"the perceptual loss needs {name} ({size}), which is neither in {cached.parent} nor to be had here "
            f'({error}). Where there is a network: python -c "import lpips; lpips.LPIPS(net={net!r})", then copy '
            "the file there, or name it with perceptual.weights_file=FILE"
        ) from error
    return cached


def _fill(trunk: torch.nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """torchvision's `features.N.*` into lpips's slices, which number the layers alike."""
    wanted = trunk.state_dict()
    filled = {key: state.get("features." + key.split(".", 1)[1]) for key in wanted}
    lacking = [key for key, value in filled.items() if value is None or value.shape != wanted[key].shape]
    if lacking:
        raise ValueError(f"{file} does not hold the weights of this network (no {', '.join(lacking[:3])} …)")
    trunk.load_state_dict(filled)


def _cut(images: Tensor, places: Tensor, size: int) -> Tensor:
    """A square of `size` pixels from each image (the whole side, where that is smaller)."""
    height, width = images.shape[-2:]
    rows, columns = min(size, height), min(size, width)
    cuts = []
    for image, (y, x) in zip(images, places.tolist(), strict=True):
        top, left = int(y * (height - rows + 1)), int(x * (width - columns + 1))
        cuts.append(image[:, top : top + rows, left : left + columns])
    return torch.stack(cuts)
