"""Overrides as text: what is quoted for Hydra, and its reasons in a line."""

import pytest
from hydra.errors import ConfigCompositionException

from fluxflow_exp.config.override_words import as_text, field_hint, is_field, quoting, why


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("name=1e3", "name='1e3'"),
        ("name=7", "name='7'"),
        ("name=007", "name=007"),  # a text to Hydra as well
        ("name=null", "name='null'"),
        ("name=true", "name='true'"),
        ("name=run-1", "name=run-1"),
        ("hardware.gpu=200", "hardware.gpu='200'"),  # a text, or null
        ("hardware.gpu=null", "hardware.gpu=null"),
        ("seed=007", "seed=007"),  # no text
        ("++name=1e3", "++name='1e3'"),
        ("name='1e3'", "name='1e3'"),
        ("name=1,2", "name=1,2"),  # a sweep
        ("model.width=1", "model.width=1"),  # no field of the frame
    ],
)
def test_a_value_is_quoted_where_its_key_takes_a_text_and_hydra_reads_another_thing(given: str, text: str) -> None:
    assert as_text([given]) == [text]


def test_fields_of_the_frame_and_their_types() -> None:
    assert (field_hint("seed"), field_hint("hardware.gpu"), field_hint("hardware.no")) == (int, str | None, None)
    assert is_field("name")
    assert not is_field("nam")
    assert not is_field("stage.steps.vae")  # a step's name is anybody's


def test_the_reason_is_one_line_without_places() -> None:
    error = ConfigCompositionException(
        "Could not override 'a.b'.\n    full_key: a.b\n    object_type=dict\n  Key is new"
    )
    assert why(error) == "Could not override 'a.b'. Key is new"
    outer = ConfigCompositionException("Error merging override a=1")
    outer.__cause__ = ValueError("field 'a' is not Optional")
    assert why(outer) == "a cannot be null"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name=plain", ""),
        ("name=a [b]", """. A text with brackets or commas takes quotes within quotes: 'name="a [b]"'"""),
        ("p=[a,b(1,2)]", """. Texts with brackets or commas take quotes within quotes: 'p=["a","b(1,2)"]'"""),
        ('name="a b" c', """. A text with brackets or commas takes quotes within quotes: 'name="\\"a b\\" c"'"""),
        ('name="a b', """. A text with brackets or commas takes quotes within quotes: 'name="a b"'"""),
        ("p=[a,", ". The shell cuts words at spaces: put the whole of it in quotes, 'p=[a, …'"),
    ],
)
def test_how_a_text_is_quoted(text: str, said: str) -> None:
    assert quoting(text) == said


def test_a_key_that_is_there_needs_no_plus() -> None:
    error = ConfigCompositionException("Could not append to config. An item is already at 'a.b'.\nEither remove it")
    assert why(error) == "a.b is in this configuration already: write it without the +"
