"""Files as they may come from anywhere: whole ones of every format, and seeded mutations of them."""

import io
import random
import struct
import tarfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

SIDE = 24
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F", "YCbCr", "LAB")
FORMATS = (
    "AVIF", "BLP", "BMP", "DDS", "DIB", "GIF", "ICO", "IM", "JPEG", "JPEG2000", "MPO", "MSP", "PCX", "PNG",
    "PPM", "QOI", "SGI", "SPIDER", "TGA", "TIFF", "WEBP", "XBM",
)  # fmt: skip
EXTRAS = {"exif": ("AVIF", "JPEG", "PNG", "TIFF", "WEBP"), "compression": ("TIFF",), "lossless": ("WEBP",)}


def pictures() -> dict[str, bytes]:
    """Format, mode, and what else is peculiar → a whole file."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (SIDE, SIDE + 8, 3), dtype=np.uint8).repeat(2, 0))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x829A] = 6, "words", (1, 50)
    extras: dict[str, Any] = {"exif": exif, "compression": "tiff_lzw", "lossless": True}
    found = {}
    for kind in FORMATS:
        for mode in MODES:
            for extra in ({}, *({name: value} for name, value in extras.items() if kind in EXTRAS[name])):
                file = io.BytesIO()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        converted(noise, mode).save(file, kind, **extra)
                    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SystemError):
                        continue  # the format has no such mode
                found[f"{kind} {mode} {' '.join(extra)}"] = file.getvalue()
    found |= by_hand(noise)
    unique = {data: name for name, data in reversed(found.items())}
    return {name: data for data, name in reversed(unique.items())}


def by_hand(image: Image.Image) -> dict[str, bytes]:
    """Of formats that Pillow does not write, or slowly."""
    file = io.BytesIO()
    image.resize((128, 128)).save(file, "PNG")
    png = file.getvalue()
    pixels = bytes(range(256)) * (3 * SIDE * SIDE // 256 + 1)
    psd = struct.pack(">4sH6xHIIHH12xH", b"8BPS", 1, 3, SIDE, SIDE, 8, 3, 0) + pixels
    sun = struct.pack(">8I", 0x59A66A95, SIDE, SIDE, 24, 3 * SIDE * SIDE, 1, 0, 0) + pixels
    cards = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", f"NAXIS1  = {SIDE}", f"NAXIS2  = {SIDE}", "END"]
    fits = "".join(card.replace("= ", f"=  {'':18}").ljust(80) for card in cards).ljust(2880).encode() + pixels
    xpm = b'/* XPM */\nstatic char *a[] = {\n"4 2 2 1",\n"a c #FF0000",\n"b c #0000FF",\n"abab",\n"baba"\n};\n'
    icns = struct.pack(">4sI4sI", b"icns", len(png) + 16, b"ic07", len(png) + 8) + png
    return {"PSD": psd, "SUN": sun, "FITS": fits, "XPM": xpm, "ICNS": icns}


def converted(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.tobytes())
    made = image.convert(mode)
    if mode in ("RGBA", "LA"):
        made.putalpha(image.getchannel("R"))
    return made


def shard(pictures: list[bytes]) -> bytes:
    """A tar of as many samples."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, data in enumerate(pictures):
            for extension, content in (("png", data), ("json", b'{"prompt": "picture %d"}' % number)):
                info = tarfile.TarInfo(f"{number:03d}.{extension}")
                info.size = len(content)
                if number % 4 == 0:
                    info.pax_headers = {"comment": "a header of its own"}
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def headers(shard: bytes, *, count: int, seed: int) -> Iterator[bytes]:
    """A shard whose headers say something else, with check sums that are right."""
    rng = random.Random(seed)
    places = [at for at in range(0, len(shard), 512) if shard[at + 257 : at + 262] == b"ustar"]
    sizes = (b"\xff" * 10 + b"\xfe\0", b"\x80" + b"\xff" * 11, b"77777777777\0", b"00000000000\0", b"-1000000000\0")
    for _ in range(count):
        data = bytearray(shard)
        for at in rng.sample(places, rng.randrange(1, 4)):
            match rng.randrange(4):
                case 0:
                    data[at + 124 : at + 136] = rng.choice(sizes)
                case 1:
                    data[at + 156] = rng.choice(b"0123456789xgLKSDVNX\0")  # what it is
                case 2:
                    data[at : at + 8] = rng.choice((b"000.png\0", b"\xff\xfe.png\0\0", b"...\0....", rng.randbytes(8)))
                case _:
                    data[at + rng.randrange(500)] = rng.randrange(256)
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        yield bytes(data)


def mutations(whole: list[bytes], *, count: int, seed: int) -> Iterator[bytes]:
    """Files chosen at random: cut off, with bytes changed, most of them in headers, or with parts doubled."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            length = max(len(data), 1)
            at = rng.randrange(min(length, rng.choice((64, 512, length))))
            at = at if rng.random() < 0.1 else max(at, 8)  # most keep what tells the format
            match rng.randrange(12):
                case 0:
                    del data[at:]
                case 1 | 2 | 3 | 4:
                    data[at : at + 1] = bytes([rng.randrange(256)])
                case 5 | 6 | 7:
                    data[at : at + 4] = rng.choice(
                        (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\xff\xff")
                    )
                case 8:
                    data[at:at] = rng.randbytes(rng.randrange(1, 9))
                case 9:
                    del data[at : at + rng.randrange(1, 9)]
                case _:
                    start = rng.randrange(length)
                    data[at:at] = data[start : start + rng.randrange(64)]
        yield bytes(data)
