"""Sheets of pictures."""

import torch
from PIL import Image

from fluxflow_exp.pictures import captioned, rows_of, save, short_hash, titled, to_uint8


def test_the_range_is_mapped_and_clamped():
    assert to_uint8(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


def test_saving_is_lossless(tmp_path):
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    save(image, tmp_path / "a" / "x.webp")
    with Image.open(tmp_path / "a" / "x.webp") as found:
        assert list(found.convert("RGB").tobytes()) == image.permute(1, 2, 0).flatten().tolist()


def test_sheets_hold_every_image():
    red, blue = (
        torch.tensor(c, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32) for c in ([255, 0, 0], [0, 0, 255])
    )
    sheet = captioned(torch.cat([red, blue, red]), ["one", "two", "a very long caption " * 9], columns=2)
    assert sheet.getpixel((10, 10)) == (255, 0, 0)
    assert sheet.getpixel((110, 10)) == (0, 0, 255)
    rows = rows_of([torch.cat([red, blue]), torch.cat([blue, red])], labels=["a", "b"])
    assert rows.getpixel((120, 10)) == (255, 0, 0)
    assert rows.getpixel((120, 110)) == (0, 0, 255)


def test_a_sheet_stands_whole_below_its_title_in_as_many_lines_as_it_needs():
    title = "Step flow, update 20 (epoch 1): 640 images seen, guidance 4, averaged weights"
    heights = {}
    for width in (110, 700):
        sheet = Image.new("RGB", (width, 50), "red")
        whole = titled(sheet, title)
        strip = heights[width] = whole.height - 50
        assert whole.crop((0, strip, width, whole.height)).tobytes() == sheet.tobytes()
        dark = whole.crop((0, 0, width, strip)).convert("L").point(lambda value: 255 * (value < 128)).getbbox()
        assert dark is not None
        assert dark[0] > 0
        assert dark[1] > 0
        assert dark[2] < width, "no line is cut"
        assert dark[3] < strip
    assert heights[700] < 30 < heights[110]


def test_hashes_tell_names_apart():
    assert short_hash("a.png") != short_hash("b.png")
    assert len(short_hash("a.png")) == 6
