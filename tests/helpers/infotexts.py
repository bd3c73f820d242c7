"""What a generated picture says of itself."""

from pathlib import Path

from PIL import Image


def read_back(path: Path) -> str | None:
    """As docs/how-to/generating.md says; None: the picture holds none."""
    with Image.open(path) as picture:
        if path.suffix == ".png":
            return picture.text.get("parameters")  # type: ignore[attr-defined,no-any-return]
        comment = picture.getexif().get_ifd(0x8769).get(0x9286)
    return None if comment is None else comment[8:].decode("utf-16-be")
