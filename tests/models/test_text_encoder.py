"""The byte-level encoder."""

import pytest
import torch

from fluxflow_exp.models.text_encoder import ByteTextEncoder


def encoder(stride=1):
    torch.manual_seed(0)
    return ByteTextEncoder(width=16, depth=2, heads=2, max_length=24, bytes_per_token=stride).eval()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_padding_does_not_reach_valid_tokens(stride):
    model = encoder(stride)
    alone, padded = model(["a red circle"]), model(["a red circle", "a much longer caption"])
    count = int(alone.mask.sum())
    assert padded.mask[0].sum() == count
    torch.testing.assert_close(padded.tokens[0, :count], alone.tokens[0, :count])
    assert padded.tokens[0, count:].abs().max() == 0


@pytest.mark.parametrize("stride", [1, 4])
def test_the_empty_caption_is_one_finite_token(stride):
    text = encoder(stride)(["", "words"])
    assert text.mask[0].tolist()[:1] == [True]
    assert text.mask[0].sum() == 1
    assert text.tokens.isfinite().all()


def test_captions_differ_by_any_byte_and_by_order():
    tokens = encoder()(["ab", "ba", "ac", "äb"]).tokens[:, :3]
    for i in range(4):
        for j in range(i):
            assert (tokens[i] - tokens[j]).abs().max() > 1e-3


def test_long_captions_are_cut():
    text = encoder()(["x" * 500])
    assert text.tokens.shape == (1, 25, 16)
