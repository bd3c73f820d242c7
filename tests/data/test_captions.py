"""Text that users write."""

from pathlib import Path

import pytest

from fluxflow_exp.data.captions import lines_of, prefixed, surrogate_in


def test_a_line_feed_alone_ends_a_line_whatever_wrote_the_file(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes("\ufeffa\r\nb\u2028c\x85d\n\re\n".encode())
    assert lines_of(path) == ["a", "b\u2028c\x85d", "\re", ""]
    path.write_bytes(b"a\rb\rc")
    with pytest.raises(ValueError, match="end with carriage returns alone"):
        lines_of(path)


def test_half_a_character_is_named_and_a_prefix_is_a_sentence() -> None:
    assert surrogate_in("fine 🎈") is None
    assert surrogate_in("broken \ud83c") == "half a character (the lone surrogate U+D83C)"
    assert (prefixed("a cat", "photo"), prefixed("a cat", None)) == ("photo. a cat", "a cat")
