"""Text that users write: captions and prompts, in files of UTF-8."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A picture's caption as it was found."""

    where: str  # its file and line
    name: str = ""
    caption: str = ""
    wrong: str = ""  # why it cannot be used, if so
    group: str | None = None  # the pictures that it is held out with, or trained on; None: alone
    weight: float = 1.0  # among several captions of the picture


def decoded(data: bytes) -> str:
    """UTF-8, with or without a byte order mark. UnicodeDecodeError: it is not."""
    return data.decode("utf-8-sig")


def not_utf8(error: UnicodeDecodeError) -> str:
    """Say what a text is that `decoded` could not read."""
    if error.object.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "is UTF-16 text, and UTF-8 is read"
    if error.object.startswith(b"PK\3\4"):
        return "is a spreadsheet or an archive, and no UTF-8 text"
    return f"is not UTF-8 text (byte {error.start})"


def lines_of(path: Path) -> list[str]:
    """The lines of a text file: a line feed ends each, after a carriage return or not, and nothing else does.

    OSError, UnicodeDecodeError. ValueError: it has carriage returns alone, so that all would be one line.
    """
    text = decoded(path.read_bytes())
    if text.count("\r") > 1 and "\n" not in text:
        raise ValueError("its lines end with carriage returns alone, and line feeds are needed")
    return [line.removesuffix("\r") for line in text.split("\n")]


def surrogate_in(text: str) -> str | None:
    """Say what keeps `text` from being written as UTF-8, which every text encoder reads; None: nothing."""
    if text.isascii():
        return None
    found = next((character for character in text if "\ud800" <= character <= "\udfff"), None)
    return None if found is None else f"half a character (the lone surrogate U+{ord(found):04X})"


def one_line(text: str) -> str:
    """Return the words of `text`, a space between each: what a line break in a caption is read as."""
    return " ".join(text.split())


def prefixed(caption: str, prefix: str | None) -> str:
    """FluxFlow's form: the prefix, a full stop, the caption."""
    return f"{prefix}. {caption}" if prefix else caption
