"""Text to image: the trained parts put together, from a file or from a trainer.

model = TextToImage.load("outputs/quickstart/weights/final.safetensors")
images = model(["a red circle on a blue ground"], guidance_scale=4.0)
images[0].save("circle.png")
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from fluxflow_exp.config import published
from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.losses.v_prediction import VPrediction
from fluxflow_exp.models import lora, weights
from fluxflow_exp.pictures import to_pil, to_uint8
from fluxflow_exp.samplers import SAMPLERS, Velocity, guided, interval_problem, stretches
from fluxflow_exp.seeding import generator

OBJECTIVES = {each.name: each for each in (RectifiedFlow, VPrediction)}
UNGUIDED = (
    "warning: this model was trained without caption dropout (stage=flow_cfg has it): guidance steers by an "
    "unconditional prediction that it never learned"
)


def places(prompts: Sequence[str]) -> list[int]:
    """How often each prompt came before: ["a", "b", "a"] → [0, 0, 1]."""
    seen: dict[str, int] = {}
    found = []
    for prompt in prompts:
        found.append(seen.get(prompt, 0))
        seen[prompt] = found[-1] + 1
    return found


class TextToImage(nn.Module):
    """Expander, flow_processor and text_encoder of one model."""

    expander: Any
    flow_processor: Any
    text_encoder: Any

    def __init__(
        self,
        *,
        expander: nn.Module,
        flow_processor: nn.Module,
        text_encoder: nn.Module,
        downscale: int,
        objective: RectifiedFlow,
        img_size: int,
        trained_with_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.expander, self.flow_processor = expander, flow_processor
        self.text_encoder = text_encoder
        self.downscale, self.objective, self.img_size = downscale, objective, img_size
        self.trained_with_dropout = trained_with_dropout

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        kind: Literal["ema", "raw"] = "ema",
        trust: Sequence[str] = (),
        adapter: str | Path | None = None,
        adapter_scale: float = 1.0,
    ) -> "TextToImage":
        """A published `final.safetensors` (or a flow step's file beside its run). ValueError: not such a file.

        `adapter`, a `<step>.lora.safetensors` that was trained on it, is merged into it `adapter_scale` times.
        `trust`: classes of somebody's own, "MODULE.NAME", that this file and later ones may name.
        """
        published.allow(trust)
        model, facts = weights.load_model(Path(path), kind=kind)
        flow = facts["flow"]
        if adapter is not None:
            lora.apply(model, Path(adapter), scale=adapter_scale)
        return (
            cls(
                expander=model["expander"],
                flow_processor=model["flow_processor"],
                text_encoder=model["text_encoder"],
                downscale=facts["downscale"],
                objective=OBJECTIVES[flow["objective"]](shift=flow["shift"]),
                img_size=facts["img_size"],
                trained_with_dropout=flow["cfg_dropout_prob"] > 0,
            )
            .to(device)
            .eval()
        )

    def forward(self, prompts: list[str], **options: Any) -> list[Image.Image]:
        """One image a prompt; the options are those of `generate`."""
        return [to_pil(image) for part in self.generate(prompts, **options) for image in part]

    @torch.no_grad()
    def generate(
        self,
        prompts: list[str],
        *,
        guidance_scale: float = 1.0,
        guidance_interval: Sequence[float] | None = None,
        negative_prompt: str = "",
        steps: int = 50,
        sampler: str = "euler",
        shift: float | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        batch_size: int = 64,
        rows: Sequence[int] | None = None,
    ) -> Iterator[Tensor]:
        """Yield uint8 (≤ batch_size, 3, height, width) on the CPU, in the order of `prompts`, of `rows` of them alone.

        `size` is (width, height) in pixels, by default the training size. The noise of an image is a function of
        its prompt, `seed`, and how often the prompt came before it in `prompts`; not of the batch. With
        `guidance_scale` 1, and outside of the times of `guidance_interval` (low, high; 1 is noise), the unconditional
        field is not evaluated. `shift` of the sampler's times is by default that of training.
        ValueError: a size the model cannot make, no interval, a shift that is not positive, or no name of SAMPLERS.
        """
        wrong = interval_problem(guidance_interval) if guidance_interval is not None else None
        if wrong:
            raise ValueError(f"guidance_interval {wrong}")
        if shift is not None and not 0 < shift < math.inf:
            raise ValueError(f"shift must be a positive number, not {shift}")
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler is one of {', '.join(SAMPLERS)}, not {sampler!r}")
        width, height = size or (self.img_size, self.img_size)
        self._check_size(width, height)
        device = self.flow_processor.latent_mean.device
        noise = self._noise(prompts, seed, height // self.downscale, width // self.downscale, rows=rows)
        prompts = prompts if rows is None else [prompts[row] for row in rows]
        grid = self.objective.grid(steps, shift=shift)
        path = stretches(grid, self.objective.time_at(grid), scale=guidance_scale, interval=guidance_interval)
        for first in range(0, len(prompts), batch_size):
            part = slice(first, first + batch_size)
            x = noise[part].to(device)
            field = self._field(prompts[part], negative_prompt, guidance_scale)
            for positions, scale in path:
                *_, x = SAMPLERS[sampler](field(scale), x, positions)
            yield to_uint8(self.expander(self.flow_processor.denormalise(x))).cpu()

    def _field(self, prompts: list[str], negative: str, most: float) -> Callable[[float], Velocity]:
        """Scale of guidance → field; 1 is the only scale if it is `most`."""
        text = self.text_encoder(prompts)
        without = self.text_encoder([negative] * len(prompts)) if most != 1.0 else text

        def velocity(condition: Any) -> Any:
            return lambda x, place: self.flow_processor(x, self.objective.time_at(place), condition).float()

        return lambda scale: guided(velocity(text), velocity(without), scale=scale)

    def _noise(
        self, prompts: list[str], seed: int, height: int, width: int, *, rows: Sequence[int] | None = None
    ) -> Tensor:
        """(prompts, channels, height, width), drawn on the CPU so that every device gets the same numbers."""
        drawn, numbers = [], places(prompts)
        channels = self.flow_processor.latent_mean.numel()
        for row in range(len(prompts)) if rows is None else rows:
            source = generator("generate", prompts[row], seed, numbers[row])
            drawn.append(torch.randn((channels, height, width), generator=source))
        return torch.stack(drawn)

    def _check_size(self, width: int, height: int) -> None:
        unit = self.downscale * self.flow_processor.patch_size
        if width % unit or height % unit or min(width, height) < unit:
            raise ValueError(f"width and height must be multiples of {unit}, not {width}x{height}")
