"""How a picture was made, as a text in its metadata: the "infotext" that AUTOMATIC1111's stable-diffusion-webui writes
and other programs read, too.

PNG has it in the text chunk `parameters`, WebP and JPEG in the UserComment of their EXIF (Exif 2.3, section 4.6.5).
"""

import json
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

# End of a picture's file → Pillow's options; JPEG keeps the colours of all pixels.
FORMATS: dict[str, dict[str, Any]] = {
    "webp": {"lossless": True},
    "png": {},
    "jpg": {"quality": 95, "subsampling": 0},
}
JPEG_LIMIT = 62_000  # bytes of prompts in UTF-16: a segment of JPEG has 65,533, some of them for the other parameters


def infotext(prompt: str, negative_prompt: str, parameters: Mapping[str, object]) -> str:
    """Prompt, negative prompt if there is one, and a line of `parameters` whose values are quoted where need be."""
    line = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in parameters.items())
    return "\n".join([prompt, *([f"Negative prompt: {negative_prompt}"] if negative_prompt else []), line])


def options(form: str, text: str) -> dict[str, Any]:
    """Pillow's options that write a picture of `form`, one of FORMATS, with `text` in its metadata."""
    if form == "png":
        chunks = PngInfo()
        chunks.add_text("parameters", text)
        return {**FORMATS[form], "pnginfo": chunks}
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: b"UNICODE\0" + text.encode("utf-16-be")}
    return {**FORMATS[form], "exif": exif}


def length_problem(form: str, *texts: str) -> str | None:
    """Say what is wrong if `texts` together are longer than a picture of `form` can hold."""
    count = sum(len(text.encode("utf-16-be")) for text in texts)
    if form != "jpg" or count <= JPEG_LIMIT:
        return None
    return f"the metadata of a jpg hold {JPEG_LIMIT // 2:,} characters of prompts, not {count // 2:,}"


def _quoted(value: str) -> str:
    """A value with what would end it inside is a string of JSON."""
    return json.dumps(value, ensure_ascii=False) if any(each in value for each in ',:\n"') else value
