"""What is to be expected of a flow step's captioned data, before it is trained on: copies, captions that are cut."""

from typing import Protocol, runtime_checkable

from torch import nn

from fluxflow_exp.config.schema import Step
from fluxflow_exp.data.protocols import Captioned, DataSet, Stream
from fluxflow_exp.errors import counted
from fluxflow_exp.step_length import Length

# Diffusion models remember a thousand images and generalise from a hundred thousand (Kadkhodaie et al. 2024, fig. 1);
# this project's remember most of 1,868 emoji.
FEW_PICTURES = 5000
OFTEN = 10  # times that a picture is seen
CAPTIONS = 10_000  # that are looked at


@runtime_checkable
class Cutting(Protocol):
    """A text encoder that reads captions up to a length."""

    max_length: int
    unit: str

    def lengths(self, captions: list[str]) -> list[int]:
        """How many of `unit` each caption has."""
        ...


def remarks(step: Step, length: Length, data: DataSet, text_encoder: nn.Module) -> list[str]:
    """A line for each thing to be expected."""
    return _copies(step, length, data) + _cut(data, text_encoder)


def _copies(step: Step, length: Length, data: DataSet) -> list[str]:
    if isinstance(data.train, Stream):  # how many there are is not known
        return []
    seen = length.updates * length.batch_size / len(data.train)
    if len(data.train) >= FEW_PICTURES or seen < OFTEN:
        return []
    way = "add data" if step.init_from else "fine-tune (init_from) or add data"
    return [f"{counted(len(data.train), 'picture')}, each seen {seen:.0f} times: expect copies; {way}"]


def _cut(data: DataSet, text_encoder: nn.Module) -> list[str]:
    if not isinstance(text_encoder, Cutting):
        return []
    known = data.train.captions() if isinstance(data.train, Captioned) else data.prompts
    looked_at = known[:CAPTIONS]
    longest = text_encoder.max_length
    cut = sum(each > longest for each in text_encoder.lengths(looked_at))
    if not cut:
        return []
    verb = "is" if cut == 1 else "are"
    return [
        f"{cut:,} of {counted(len(looked_at), 'caption')} {verb} longer than the {longest} {text_encoder.unit} "
        f"that the text encoder reads, and {verb} cut there: shorten them, or raise model.text_encoder.max_length"
    ]
