"""Autoencoders of diffusers as compressor and expander: AutoencoderKL, and AutoencoderDC (Chen et al. 2024, DC-AE).

The layers are the library's, and names of tensors are those of its own files: the state of both halves together is
that of the whole. Latents are those of its `encode`, without its factors of shift and scale: a flow measures mean and
deviation of each channel by itself. The factors stay in the configuration, and are saved with it.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fluxflow_exp.config import autoencoder
from fluxflow_exp.config.autoencoder import Config
from fluxflow_exp.errors import UserError
from fluxflow_exp.models.diffusers_layers import Stage, adapt
from fluxflow_exp.models.posterior import Posterior, check_sides


class _Half(nn.Module):
    """What the two have in common: `half` is the encoder or decoder of the library's model, and `name` its name."""

    def __init__(self, name: str, half: nn.Module) -> None:
        super().__init__()
        self.add_module(name, half)
        self._name, self._checkpointing = name, False
        adapt(half)

    @property
    def checkpointing(self) -> bool:
        """Whether activations of each stage are computed again in the backward pass."""
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, on: bool) -> None:
        self._checkpointing = on
        half: Any = getattr(self, self._name)
        if hasattr(half, "gradient_checkpointing"):  # AutoencoderKL's do it themselves
            half.gradient_checkpointing = on
            half._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        for module in half.modules():
            if isinstance(module, Stage):
                module.checkpointing = on

    def train(self, mode: bool = True) -> "_Half":
        """Batch norms keep the statistics that they have: else an update would depend on its micro-batches."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class Compressor(_Half):
    """Images (batch, 3, height, width) in [-1, 1] → Posterior on a grid of 1/downscale.

    `config` is the library's config.json. `weights_path` is the folder whose weights it begins with; None: fresh ones.
    The posterior of AutoencoderDC has no variance. ValueError: nothing can be built of `config`, or (from `forward`)
    height or width is no multiple of `downscale`.
    """

    encoder: Any

    def __init__(self, *, config: dict[str, Any], weights_path: str | None = None) -> None:
        model = _built(config, weights_path)
        super().__init__("encoder", model.encoder)
        self.quant_conv = getattr(model, "quant_conv", None)
        self.vae_dim, self.downscale = int(config["latent_channels"]), autoencoder.downscale(config, 0)
        self.deterministic = config["_class_name"] == "AutoencoderDC"

    def forward(self, images: Tensor) -> Posterior:
        return self.posterior(self.moments(images))

    def moments(self, images: Tensor) -> Tensor:
        """All that `posterior` needs, in float32: mean and log-variance (batch, 2·vae_dim, h, w), or latents alone."""
        check_sides(images, self.downscale)
        x = self.encoder(images)
        moments: Tensor = (x if self.quant_conv is None else self.quant_conv(x)).float()
        return moments

    def posterior(self, moments: Tensor) -> Posterior:
        if self.deterministic:
            return Posterior(moments, None)
        mean, logvar = moments.chunk(2, 1)
        return Posterior(mean, logvar.clamp(-30, 20))


class Expander(_Half):
    """Latents (batch, vae_dim, h, w) → images (batch, 3, h·upscale_by, w·upscale_by) near [-1, 1], unclamped.

    Takes the compressor's arguments. It has no SPADE layers.
    """

    has_spade = False
    decoder: Any

    def __init__(self, *, config: dict[str, Any], weights_path: str | None = None) -> None:
        model = _built(config, weights_path)
        super().__init__("decoder", model.decoder)
        self.post_quant_conv = getattr(model, "post_quant_conv", None)
        self.vae_dim, self.upscale_by = int(config["latent_channels"]), autoencoder.downscale(config, 1)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution, where the GAN's gradient is weighed."""
        last = self.decoder.conv_out
        weight = getattr(last, "conv", last).weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, latents: Tensor, spade: bool | None = None) -> Tensor:
        images: Tensor = self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))
        return images


def whole(config: Config, compressor: dict[str, Tensor], expander: dict[str, Tensor]) -> Any:
    """The library's model with the states of both halves. ValueError: they are not those of `config`."""
    made = _built(config, None)
    try:
        made.load_state_dict({**compressor, **expander})
    except RuntimeError as error:
        raise ValueError(f"these are not the weights of such an {config['_class_name']}: {error}") from error
    return made


def weights_problem(config: Config, folder: str) -> str | None:
    """Why the weights in `folder` cannot be those of `config`, by their files' headers; None: nothing.

    ValueError: nothing can be built of `config`. Called on the meta device: only shapes are wanted of it.
    """
    made = _built(config, None)
    try:
        file, there = autoencoder.stored(Path(folder).expanduser())
    except UserError as error:
        return str(error)
    made._fix_state_dict_keys_on_load(there)  # files of older versions have other names, which the library takes
    wanted = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    for name in (*wanted, *there):
        if there.get(name) != wanted.get(name):
            return (
                f"model.autoencoder.path={folder}: {file.name} does not fit config.json: {name} is "
                f"{_size(there, name)} in the file and {_size(wanted, name)} by config.json: "
                "take both of one autoencoder"
            )
    return None


def _size(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return "x".join(map(str, shapes[name])) if name in shapes else "absent"


def _built(config: Config, weights_path: str | None) -> Any:
    """The library's model; without weights where shapes alone are wanted. ValueError: it cannot be built."""
    wrong = autoencoder.problem(config)
    if wrong:
        raise ValueError(f"config: {wrong}")
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(autoencoder.INSTALL) from error
    kind = getattr(diffusers, config["_class_name"])
    unknown = [key for key in config if not key.startswith("_") and key not in kind._get_init_keys(kind)]
    if unknown:
        raise ValueError(
            f"config: {config['_class_name']} of diffusers {diffusers.__version__} has no {', '.join(unknown)}: "
            "take another version of the library"
        )
    try:
        if weights_path is None or torch.get_default_device().type != "cpu":  # an outline, or a plan's
            return kind.from_config({**config})
    except Exception as error:  # whatever the library makes of numbers that do not go together
        raise ValueError(f"config: no {config['_class_name']} can be built of it: {error}") from error
    return _read(kind, Path(weights_path).expanduser())


def _read(kind: Any, folder: Path) -> Any:
    try:
        made, told = kind.from_pretrained(
            folder,
            torch_dtype=torch.float32,
            variant=autoencoder.variant(folder),
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"the weights in {folder} are not those of its config.json: {error}") from error
    lacking = told["missing_keys"] or told["mismatched_keys"] or told["unexpected_keys"]
    if lacking:
        raise ValueError(f"the weights in {folder} are not those of its config.json: see {lacking[0]}")
    return made
