"""The border to Pillow: files are of any origin, and what a decoder raises over one is an OSError with a reason."""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from fluxflow_exp.errors import UserError

# What image files are called, of all formats that Pillow reads by itself and HEIC; the first one that a sample has is
# its image.
EXTENSIONS = (
    "jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff",
    "apng", "avif", "avifs", "blp", "bw", "cur", "dcx", "dds", "dib", "fit", "fits", "flc", "fli", "ftc", "ftu", "gbr",
    "gif", "icb", "icns", "ico", "iim", "im", "j2c", "j2k", "jfif", "jp2", "jpc", "jpe", "jpf", "jpx", "mpo", "msp",
    "pbm", "pcd", "pcx", "pfm", "pgm", "pnm", "ppm", "psd", "pxr", "qoi", "ras", "rgb", "rgba", "sgi", "tga", "vda",
    "vst", "xbm", "xpm", "heic", "heif", "hif",
)  # fmt: skip
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12; the phones'
MAX_PIXELS = 89_478_485  # of a decoded picture: a quarter of a GiB in RGB, where Pillow's own warning begins
LONGEST = 200  # characters of a reason

ORIENTATION = 0x0112  # the EXIF tag
WIDTH, HEIGHT = 256, 257  # TIFF's
TEXTS = (b"iTXt", b"tEXt", b"zTXt")  # chunks of a PNG
TURNING = (b"XML:com.adobe.xmp", b"Raw profile type exif")  # those that may say how it is turned
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))


@contextmanager
def decoding() -> Iterator[None]:
    """Whatever is raised inside, a struct.error or a MemoryError as well, becomes an OSError; not a UserError."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise OSError("is no picture of a known format") from error
    except (OSError, UserError):  # the latter of a picture whose shard cannot be fetched
        raise
    except Exception as error:
        raise OSError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


@contextmanager
def opened(file: Path | IO[bytes]) -> Iterator[Image.Image]:
    """A picture of which the header has been read, in the border."""
    with decoding(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # metadata that cannot be read does not matter here
        if isinstance(file, Path):
            check_regular(file)
        with _open(file) as image:
            if image.format == "EPS":
                raise OSError("is a PostScript program and no picture; convert it, e.g. to PNG")
            if min(image.size) < 1:
                raise OSError(f"has {image.width} x {image.height} pixels")
            yield image


def _open(file: Path | IO[bytes]) -> Image.Image:
    """Pillow's answer; where it has none to a HEIC file, that of pillow-heif."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        start = _start(file)
        if not start:
            raise OSError("is empty") from None
        if start[4:8] != b"ftyp" or start[8:] not in HEIF_BRANDS:
            raise
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise OSError("is a HEIC picture, which pillow-heif alone reads: pip install pillow-heif") from error
    register_heif_opener()
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        raise OSError("is a HEIC picture that is damaged, or of a kind that pillow-heif does not read") from error


def _start(file: Path | IO[bytes]) -> bytes:
    if isinstance(file, Path):
        with file.open("rb") as content:
            return content.read(12)
    file.seek(0)
    start = file.read(12)
    file.seek(0)
    return start


def decode(image: Image.Image, *, at_least: int | None) -> Image.Image:
    """All pixels of an opened picture, upright. `at_least`: pixels of the short side that a JPEG is decoded down to.

    OSError: more than MAX_PIXELS, which the header tells before any is decoded.
    """
    if at_least and image.format in ("JPEG", "MPO"):  # MPO: what many phones write
        image.draft(image.mode, (at_least, at_least))
    _check_pixels(image)
    image.load()
    _check_pixels(image)  # files that hold a second file in another format have the size of that
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that makes it upright, as its metadata say."""
    orientation = _metadata(image).get(ORIENTATION)
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened picture, not yet decoded, as it will be shown."""
    sideways = turn_of(image) in SIDEWAYS
    if image.format == "TIFF":  # whose size newer versions of Pillow have turned already
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        sideways = sideways and image.size == (tags[WIDTH], tags[HEIGHT])
    return image.size if sideways else image.size[::-1]


def _metadata(image: Image.Image) -> Image.Exif:
    """Of a PNG Pillow decodes all pixels to see whether metadata follow them: they seldom do, which is seen sooner."""
    if isinstance(image, PngImageFile) and image.tile and not _may_follow(image):
        return Image.Image.getexif(image)
    return image.getexif()


def _may_follow(image: PngImageFile) -> bool:
    """Whether chunks that may say how it is turned stand behind the pixels, or its end is not there."""
    file, (_, _, offset, *_) = image.fp, image.tile[0]
    assert file is not None  # as long as there are tiles
    before = file.tell()
    try:
        file.seek(offset - 8)  # the length and name of the first chunk of pixels
        while len(head := file.read(8)) == 8 and head[4:] not in (b"eXIf", b"IEND"):
            start = file.tell()
            if head[4:] in TEXTS and file.read(len(max(TURNING, key=len))).startswith(TURNING):
                return True
            file.seek(start + int.from_bytes(head[:4]) + 4)  # the content, and its check
        return bool(head[4:] != b"IEND")
    finally:
        file.seek(before)


def reason(error: OSError) -> str:
    """In one line, without the path."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = error.strerror or str(error) or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def check_regular(path: Path) -> None:
    """OSError: there is nothing at `path`, nothing can be, or it is what a reader could wait at for ever."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise OSError("no file can have this name") from error
    if not stat.S_ISREG(mode):
        raise OSError("is a folder" if stat.S_ISDIR(mode) else "is no file but a device, a pipe or a socket")


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise OSError(
            f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: make it smaller, or cut it up"
        )
