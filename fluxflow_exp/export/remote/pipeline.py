"""The pipeline of an exported model for diffusers: written into its folder, and run from there."""

import inspect
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput

from fluxflow_exp.models.text_to_image import UNGUIDED, TextToImage
from fluxflow_exp.pictures import to_pil


class FluxFlowPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Pictures from prompts: the same ones as fluxflow-generate makes of the same prompts, seed and options."""

    def __init__(
        self,
        expander: Any,
        flow_processor: Any,
        text_encoder: Any,
        scheduler: Any,
        img_size: int = 256,
        downscale: int = 16,
        trained_with_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.register_modules(
            expander=expander, flow_processor=flow_processor, text_encoder=text_encoder, scheduler=scheduler
        )
        self.register_to_config(img_size=img_size, downscale=downscale, trained_with_dropout=trained_with_dropout)

    # diffusers' own names, and its way to give them.
    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        negative_prompt: str = "",
        num_images_per_prompt: int = 1,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        seed: int | None = None,
        sampler: str = "euler",
        shift: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        batch_size: int = 16,
    ) -> Any:
        """ImagePipelineOutput with PIL pictures; of `output_type` pt with (n, 3, height, width), of np with
        (n, height, width, 3), both float in [0, 1].

        `seed` (0 if not given) is that of fluxflow-generate; of a `generator` the initial seed is taken. `height` and
        `width` are by default the training size. `sampler`: euler, heun or ab2. `guidance_interval`: times that are
        guided, low and high; 1 is noise. ValueError: an option has no such value.
        """
        if output_type not in ("pil", "pt", "np"):
            raise ValueError(f"output_type is pil, pt or np, not {output_type!r}")
        if generator is not None and seed is not None:
            raise ValueError("give a seed or a generator, not both")
        if guidance_scale != 1.0 and not self.config.trained_with_dropout:
            warnings.warn(UNGUIDED.removeprefix("warning: "), stacklevel=2)
        given = [prompt] if isinstance(prompt, str) else list(prompt)
        if not given or not isinstance(negative_prompt, str):
            raise ValueError("give at least one prompt, and one negative_prompt for all of them")
        size, kind = self.config.img_size, self.flow_processor.dtype
        made = self._model().generate(
            [each for each in given for _ in range(num_images_per_prompt)],
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            negative_prompt=negative_prompt,
            steps=num_inference_steps,
            sampler=sampler,
            shift=shift,
            size=(width or size, height or size),
            seed=seed if seed is not None else 0 if generator is None else generator.initial_seed(),
            batch_size=batch_size,
        )
        with torch.autocast(self.device.type, kind, enabled=kind != torch.float32):
            images: Any = torch.cat(list(made))
        if output_type == "pil":
            images = [to_pil(image) for image in images]
        else:
            images = images / 255 if output_type == "pt" else (images.permute(0, 2, 3, 1) / 255).numpy()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """As diffusers does it, and the code beside it, so that the folder can be opened as this one was.

        ValueError: `push_to_hub` is asked for here.
        """
        if options.get("push_to_hub"):
            raise ValueError("it would be sent without its code: save it, and `hf upload NAME FOLDER`")
        super().save_pretrained(save_directory, **options)
        path = Path(save_directory) / "model_index.json"
        index = json.loads(path.read_text(encoding="utf-8"))
        for name, each in {"": self, **self.components}.items():
            code = Path(inspect.getfile(type(each)))
            shutil.copy(code, path.parent / name)
            index[name or "_class_name"] = [code.stem, type(each).__name__]
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _model(self) -> TextToImage:
        return TextToImage(
            expander=self.expander.part,
            flow_processor=self.flow_processor.part,
            text_encoder=self.text_encoder.part,
            downscale=self.config.downscale,
            objective=self.scheduler.path,
            img_size=self.config.img_size,
        )
