"""What is kept of tokens, and how near it is to them."""

import numpy as np
import pytest
import torch

from fluxflow_exp.data.token_formats import FORMATS, form_of, packed, packed_each, unpacked
from fluxflow_exp.errors import UserError

BYTES = {"float32": 64, "float16": 32, "bfloat16": 32, "float8": 20}  # of a token of 16 channels
WORST = {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8, "float8": 2**-4}  # half a step, relative


@pytest.mark.parametrize("form", FORMATS)
def test_numbers_come_back_to_half_a_step_of_the_format(form: str) -> None:
    torch.manual_seed(0)
    scales = torch.logspace(-3, 3, 7)[:, None]  # of a token
    tokens = scales * torch.where(torch.rand(5, 7, 16) < 0.5, -1, 1) * (0.1 + torch.rand(5, 7, 16))
    kept = packed(tokens, form)
    assert kept[0, 0].numel() * kept.element_size() == BYTES[form]
    through_file = torch.from_numpy(np.array(kept.numpy()))
    error = (unpacked(through_file) - tokens).abs() / tokens.abs()
    assert error.max() <= WORST[form]
    assert form == "float32" or error.max() > WORST[form] / 4


@pytest.mark.parametrize("form", FORMATS)
def test_padding_stays_zero(form: str) -> None:
    assert torch.equal(unpacked(torch.zeros_like(packed(torch.ones(2, 3, 16), form))), torch.zeros(2, 3, 16))
    assert torch.equal(unpacked(packed(torch.zeros(2, 3, 16), form)), torch.zeros(2, 3, 16))


@pytest.mark.parametrize(("form", "value"), [("float16", 1e6), ("float8", float("inf")), ("float8", float("nan"))])
def test_what_a_format_does_not_hold_is_refused_by_its_caption(form: str, value: float) -> None:
    tokens = torch.ones(2, 3, 16)
    tokens[1, 2, 5] = value
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UserError, match=f"the tokens of 'b' are not finite in {form}: set cache.text_dtype=bfloat16"):
        packed_each(tokens, mask, form, ["a", "b"])
    mask[1, 2] = False  # what is no token may be anything
    assert [len(each) for each in packed_each(tokens, mask, form, ["a", "b"])] == [3, 2]


def test_auto_is_what_latents_have() -> None:
    assert [form_of("auto", precision) for precision in ("fp32", "bf16")] == ["float32", "float16"]
    assert form_of("float8", "fp32") == "float8"
