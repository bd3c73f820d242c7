"""A patch discriminator (Isola et al. 2017): one logit for each overlapping patch of an image."""

from torch import Tensor, nn

from fluxflow_exp.config.bounds import PositiveInt
from fluxflow_exp.models.layers import AlignedConv2d


class PatchDiscriminator(nn.Module):
    """Images (batch, 3, height, width) → logits (batch, 1, height/2^depth, width/2^depth).

    No normalisation over the batch (it would couple samples) and no spectral norm (a hidden state); R1 regularises.
    Leaky ReLU whatever the model's activation: the opponent is not what is compared.
    """

    def __init__(
        self, *, base_channels: PositiveInt = 64, depth: PositiveInt = 3, max_channels: PositiveInt = 512
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for level in range(depth):
            channels = min(base_channels * 2**level, max_channels)
            layers += [AlignedConv2d(previous, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            previous = channels
        layers += [nn.Conv2d(previous, previous, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(previous, 1, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the output of each activation, (batch, channels, h, w), and the logits."""
        found, x = [], images
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                found.append(x)
        return found, x
