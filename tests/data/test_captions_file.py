"""The forms that captions of a folder come in."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fluxflow_exp.data.captions_file import read_captions


def pairs(path: Path, folder: Path) -> list[tuple[str, str]]:
    return [(entry.id, entry.caption) for entry in read_captions(str(path), folder).entries]


def test_captions_are_parsed_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    path.write_bytes("\ufeffa.png\tone\ttwo\r\n\n  \nb.png\tGrüße\nno tab here\n\tnameless\n".encode())
    found = read_captions(str(path), tmp_path)
    assert pairs(path, tmp_path) == [("a.png", "one\ttwo"), ("b.png", "Grüße")]
    assert found.bad == [("c.tsv:5", "no tab between name and caption"), ("c.tsv:6", "no name")]
    assert read_captions(str(path), tmp_path, prefix="style anime").entries[0].caption == "style anime. one\ttwo"


def test_only_line_feeds_separate_captions(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_bytes("a.png\tone\u2028two\x0bthree\x85four\rfive\r\nb.png\tsix".encode())
    found = read_captions(str(tmp_path / "c.tsv"), tmp_path)
    assert [e.caption for e in found.entries] == ["one\u2028two\x0bthree\x85four\rfive", "six"]
    assert found.bad == []


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("column", ["text", "caption"])
def test_metadata_is_read_whatever_wrote_it(tmp_path: Path, start: str, end: str, column: str) -> None:
    rows = [("a.png", 'a "red", round kite'), ("deep/b.png", "Grüße"), ("c.png", "")]
    lines = [json.dumps({"file_name": name, "width": 3, column: caption}) for name, caption in rows]
    (tmp_path / "m.jsonl").write_bytes((start + end.join([*lines, "", ""])).encode())
    table = [f"file_name,{column},more", 'a.png,"a ""red"", round kite",x', f'deep/b.png,"{"Grüße"}{end}",', "c.png,,"]
    (tmp_path / "m.csv").write_bytes((start + end.join(table) + end).encode())
    for name in ("m.jsonl", "m.csv"):
        assert pairs(tmp_path / name, tmp_path) == rows
        assert read_captions(str(tmp_path / name), tmp_path).bad == []


def test_names_of_metadata_in_a_subfolder_are_relative_to_that(tmp_path: Path) -> None:
    line = '{"file_name": "a.png", "text": "one"}'
    for folder in ("photos/train", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "metadata.jsonl").write_text(line)
    (tmp_path / "photos" / "metadata.jsonl").write_text(line)
    inner = tmp_path / "photos" / "train" / "metadata.jsonl"
    assert pairs(inner, tmp_path / "photos") == [("train/a.png", "one")]
    assert pairs(tmp_path / "photos" / "metadata.jsonl", tmp_path / "photos") == [("a.png", "one")]
    assert pairs(tmp_path / "elsewhere" / "metadata.jsonl", tmp_path / "photos") == [("a.png", "one")]


def test_a_bad_row_of_metadata_is_counted_with_its_reason(tmp_path: Path) -> None:
    good = '{"file_name": "a.png", "text": "one"}'
    bad = {
        "{": "is no JSON: Expecting property name",
        "[1]": "is no JSON object",
        '{"text": "b"}': "no file_name",
        '{"file_name": " ", "text": "b"}': "no name",
        '{"file_name": "b.png", "text": null}': "no text or caption",
        '{"file_name": "b.png", "text": 3}': "its text is no text",
        '{"file_name": "b.png", "text": "b", "caption": "c"}': "both a text and a caption",
        '{"file_name": "b.png", "text": "\\ud83c"}': "its caption holds half a character",
        '{"file_name": "\\ud83c.png", "text": "b"}': "no file can have this name",
    }
    (tmp_path / "m.jsonl").write_text("\n".join([good, *bad]))
    found = read_captions(str(tmp_path / "m.jsonl"), tmp_path)
    assert [entry.id for entry in found.entries] == ["a.png"]
    assert [where for where, _ in found.bad] == [f"m.jsonl:{line}" for line in range(2, 2 + len(bad))]
    for (_, reason), start in zip(found.bad, bad.values(), strict=True):
        assert reason.startswith(start)
    (tmp_path / "m.csv").write_text("file_name,text\na.png,one\nb.png,a kite, red\nc.png\n")
    found = read_captions(str(tmp_path / "m.csv"), tmp_path)
    assert [entry.id for entry in found.entries] == ["a.png"]
    assert [(where, reason[:26]) for where, reason in found.bad] == [
        ("m.csv:3", "more or fewer fields than "),
        ("m.csv:4", "more or fewer fields than "),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "a.png\tone\n", r"it has no column file_name .* is to end with \.tsv"),
        ("m.csv", "", r"it has no column file_name \(its columns: none\)"),
        ("m.csv", "file_name,label\na.png,3\n", "one column must be named text or caption"),
        ("m.csv", "file_name,text,caption\na.png,b,c\n", "and only one"),
        ("m.csv", 'file_name,text\na.png,"a kite\nb.png,two\n', "line 3: unexpected end of data"),
        ("m.csv", "file_name,text\n", "holds no row with a file_name and a text or caption$"),
        ("m.jsonl", '{"file_name": "a.png"}', r"holds no row with .*\. First: m.jsonl:1: no text or caption"),
        ("m.jsonl", b"\xff", r"captions_file: .*m\.jsonl is not UTF-8 text \(byte 0\)"),
    ],
)
def test_a_file_that_is_not_what_its_suffix_says_is_one_clear_error(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=message):
        read_captions(str(tmp_path / name), tmp_path)


def test_captions_stand_beside_their_pictures_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.JPG", "a/z.png", "c.webp", ".hidden/x.png", "lonely.png", "twice.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    texts = {"b.txt": "\ufeffa kite,\r\nred\r\n", "a/z.caption": "Grüße", "c.TXT": "", "README.txt": "hello"}
    for name, text in (texts | {".hidden/x.txt": "x", "twice.txt": "1", "twice.caption": "2"}).items():
        (tmp_path / name).write_bytes(text.encode())
    found = read_captions("sidecar", tmp_path)
    assert [(entry.id, entry.caption) for entry in found.entries] == [
        ("b.jpg", "a kite, red"), ("c.webp", ""), ("a/z.JPG", "Grüße"), ("a/z.png", "Grüße"),
    ]  # fmt: skip
    assert found.bad == [("twice.png", "has two captions, twice.caption and twice.txt: one of them is to go")]
    assert found.notes == [f"1 text file is without a picture in {tmp_path}: 'README.txt'"]


def test_a_folder_without_captions_beside_its_pictures_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.png.txt").touch()
    with pytest.raises(ValueError, match=r"captions_file=sidecar: .* holds no picture with a caption beside it"):
        read_captions("sidecar", tmp_path)
