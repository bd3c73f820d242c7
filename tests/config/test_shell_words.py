"""Overrides that are told to a user are those that Hydra reads when they are pasted into a shell."""

import itertools
import shlex
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from fluxflow_exp.config.shell_words import typed, written


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("silu", "k=silu"),
        ("/data/a.tar", "k=/data/a.tar"),
        ("a b", "'k=\"a b\"'"),
        ("it's", "'k=\"it'\"'\"'s\"'"),
        ("1e3", "'k=\"1e3\"'"),
        ("Null", "'k=\"Null\"'"),
        (1e-05, "k=1e-05"),
        (None, "k=null"),
        (True, "k=true"),
        (["psnr", "*.blocks.*"], "'k=[psnr,\"*.blocks.*\"]'"),
        ([[512, 256], 64], "'k=[[512,256],64]'"),
        ({"a": 1, "b": ["x y"]}, "'k={a:1,b:[\"x y\"]}'"),
    ],
)
def test_only_what_needs_quotes_has_some(value: Any, word: str) -> None:
    assert typed("k", value) == word
    (given,) = shlex.split(word)
    found = OverridesParser.create().parse_override(given).value()
    assert (found, type(found)) == (value, type(value))


def test_any_text_comes_back() -> None:
    parser = OverridesParser.create()
    texts = ["".join(each) for length in range(4) for each in itertools.product("a1_\\\"' ,=/~$.-{é\n", repeat=length)]
    for text in [*texts, "-inf", "NaN", "TRUE", "a\\\\", "0x1", "_1", "/", "key=value", "f(x)"]:
        (given,) = shlex.split(typed("k", text))
        override = parser.parse_override(given)
        assert (override.value(), override.is_sweep_override()) == (text, False)
        assert given == f"k={written(text)}"
