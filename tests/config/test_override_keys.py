"""The keys that overrides name."""

from fluxflow_exp.config.override_keys import merged


def test_the_later_word_of_a_key_holds() -> None:
    assert merged(["a=1", "+b.c=2", "~d"], ["b.c=3", "d=4"]) == ["a=1", "b.c=3", "d=4"]
