"""The forms that captions of a folder come in."""

import json
import sys
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
        ("m.csv", "file_name;text\na.png;one\n", r"it has ';' between its columns \('file_name;text'\)"),
        ("m.tsv", "a.png\tone\n".encode("utf-16"), r"m\.tsv is UTF-16 text, and UTF-8 is read; convert it"),
        ("m.xlsx", b"PK\3\4\xff", "is a spreadsheet or an archive, and no UTF-8 text"),
        ("m.tsv", "a.png\tone\rb.png\ttwo\r", "cannot be read: its lines end with carriage returns alone"),
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


def test_what_looks_like_another_form_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text('a.png\tone\t0.7\nb.png\t"two"\nc.png\tthree\n')
    assert read_captions(str(tmp_path / "m.tsv"), tmp_path).notes == [
        "1 caption is in several columns, and all after the name is trained on, tabs as well: 'a.png'",
        "1 caption is in double quotes, which are trained on as well: 'b.png'",
    ]
    with pytest.raises(ValueError, match=f"there is no file m.tsv; one of this name is {tmp_path}/m.tsv"):
        read_captions("m.tsv", tmp_path)


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
    assert found.notes[0] == f"1 text file is without a picture in {tmp_path}: 'README.txt'"
    assert len(found.notes) == 2, "one has several lines"


def test_a_folder_without_captions_beside_its_pictures_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.png.txt").touch()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "far").symlink_to(tmp_path / "in")
    with pytest.raises(
        ValueError, match=r"captions_file=sidecar: .* holds no picture with a caption beside it"
    ) as none:
        read_captions("sidecar", tmp_path)
    assert str(none.value).endswith(
        f"1 text file is without a picture in {tmp_path}: 'a.png.txt'. "
        "1 folder is a link, and not looked into: 'in/far'"
    )


def coco(path: Path, images: list[tuple[int, str]], annotations: list[tuple[int, object]]) -> Path:
    whole = {
        "info": {}, "licenses": [],
        "images": [{"id": i, "file_name": name, "height": 4, "width": 4} for i, name in images],
        "annotations": [{"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(annotations)],
    }  # fmt: skip
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def several(path: str | Path, folder: Path) -> dict[str, tuple[tuple[str, float], ...]]:
    """Name → its captions with their weights."""
    return {entry.id: entry.weighted for entry in read_captions(str(path), folder).entries}


def test_of_coco_captions_all_of_a_picture_are_read_and_those_of_none_counted(tmp_path: Path) -> None:
    images = [(9, "b.jpg"), (4, "a.jpg"), (5, "bare.jpg")]
    path = coco(tmp_path / "c.json", images, [(4, "one"), (9, "two\n"), (4, "three"), (7, "lost"), (9, None)])
    assert pairs(path, tmp_path) == [("b.jpg", "two"), ("a.jpg", "one")]
    assert several(path, tmp_path) == {"b.jpg": (("two", 1),), "a.jpg": (("one", 1), ("three", 1))}
    assert read_captions(str(path), tmp_path).bad == [
        ("c.json: annotations[4]", "no caption"),
        ("c.json: annotations[3]", "there is no image of its image_id"),
    ]


def test_lines_with_weights_have_a_head_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    path.write_bytes(
        "\ufefffile_name\ttext\tcaption_weight\r\na.png\tone\t2\na.png\ttwo\tthree\t0.5\nb.png\tfour\t\n"
        "a.png\tfive\tmuch\nc.png\tsix\nno tab\n".encode()
    )
    assert several(path, tmp_path) == {
        "a.png": (("one", 2), ("two\tthree", 0.5)), "b.png": (("four", 1),), "c.png": (("six", 1),),
    }  # fmt: skip
    assert read_captions(str(path), tmp_path).bad == [
        ("c.tsv:5", "its caption_weight must be a number above 0, not 'much'"),
        ("c.tsv:7", "no tab between name and caption"),
    ]
    path.write_text("a.png\tone\t2\na.png\tone\t0.5")
    assert several(path, tmp_path) == {"a.png": (("one\t2", 1), ("one\t0.5", 1))}, "without it, tabs are caption"


@pytest.mark.parametrize("form", ["rows", "lists", "parquet"])
def test_metadata_may_have_rows_or_lists_of_captions(tmp_path: Path, form: str) -> None:
    wanted = {"a.png": (("one", 1), ("a second one", 2.5)), "b.png": (("three", 1),)}
    if form == "rows":
        path = tmp_path / "m.csv"
        path.write_text("file_name,text,caption_weight\na.png,one,1\nb.png,three,\na.png,a second  one,2.5\n")
    else:
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_dict(
            {"file_name": ["a.png", "b.png"], "text": [["one", "a second\none"], ["three"]],
             "caption_weight": [[1, 2.5], None]}
        )  # fmt: skip
        path = tmp_path / f"m.{'jsonl' if form == 'lists' else 'parquet'}"
        (table.to_json if form == "lists" else table.to_parquet)(str(path))
    assert several(path, tmp_path) == wanted
    assert read_captions(str(path), tmp_path).bad == []


def test_a_list_of_captions_that_is_none_is_counted_with_its_reason(tmp_path: Path) -> None:
    bad = {
        '"text": []': "no text or caption",
        '"text": ["b", 3]': "its text is no text or list of texts",
        '"text": ["b", null]': "its text is no text or list of texts",
        '"text": ["b", "c"], "caption_weight": [1]': "its caption_weight must be a list of 2 numbers",
        '"text": ["b", "c"], "caption_weight": 3': "its caption_weight must be a list of 2 numbers",
        '"text": ["b", "c"], "caption_weight": [1, 0]': "its caption_weight must be a number above 0, not 0",
        '"text": "b", "caption_weight": "x"': "its caption_weight must be a number above 0, not 'x'",
    }
    rows = [f'{{"file_name": "b.png", {fields}}}' for fields in bad]
    (tmp_path / "m.jsonl").write_text("\n".join(['{"file_name": "a.png", "text": "one"}', *rows]))
    found = read_captions(str(tmp_path / "m.jsonl"), tmp_path)
    assert [entry.id for entry in found.entries] == ["a.png"]
    assert [reason[: len(start)] for (_, reason), start in zip(found.bad, bad.values(), strict=True)] == [*bad.values()]


def test_lines_beside_a_picture_are_one_caption_or_one_each(tmp_path: Path) -> None:
    for name, text in (("a", "one kite\r\n\n two kites \n"), ("b", "a boat"), ("c", "\n")):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(text.encode())
    whole = [("a.png", "one kite two kites"), ("b.png", "a boat"), ("c.png", "")]
    found = read_captions("sidecar", tmp_path)
    assert [(entry.id, entry.caption) for entry in found.entries] == whole
    (note,) = found.notes
    assert note.startswith("1 text file is of several lines, and read as one caption (captions_file=sidecar_lines: ")
    assert read_captions("sidecar_lines", tmp_path).notes == []
    assert several("sidecar_lines", tmp_path) == {
        "a.png": (("one kite", 1), ("two kites", 1)), "b.png": (("a boat", 1),), "c.png": (("", 1),),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", r"c\.json cannot be read: Expecting ',' delimiter"),
        ('[{"image": "a.png"}]', "it is no COCO captions file: it has no list of objects named images"),
        ('{"images": [], "annotations": [1]}', "no list of objects named annotations"),
        ('{"images": [], "annotations": []}', "holds no annotation with a caption of an image$"),
        ("[" * 100_000, "it is too deeply nested"),
    ],
)
def test_a_json_that_holds_no_coco_captions_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_captions(str(tmp_path / "c.json"), tmp_path)


def test_pycocotools_finds_the_same_captions(tmp_path: Path) -> None:
    theirs = pytest.importorskip("pycocotools.coco")
    annotations: list[tuple[int, object]] = [(4, "one"), (9, "two"), *((4, f"words {i}") for i in range(4))]
    path = coco(tmp_path / "c.json", [(9, "b.jpg"), (4, "a.jpg")], annotations)
    api = theirs.COCO(str(path))
    assert several(path, tmp_path) == {
        api.loadImgs(i)[0]["file_name"]: tuple((a["caption"], 1) for a in api.loadAnns(api.getAnnIds(imgIds=i)))
        for i in api.getImgIds()
    }


def test_parquet_is_read_where_pyarrow_is(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"file_name": ["a.png", "b.png", "c.png"], "text": ["a  kite", None, "Grüße"], "n": [1, 2, 3]}
    parquet.write_table(arrow.table(columns), tmp_path / "m.parquet")
    assert pairs(tmp_path / "m.parquet", tmp_path) == [("a.png", "a kite"), ("c.png", "Grüße")]
    assert read_captions(str(tmp_path / "m.parquet"), tmp_path).bad == [("m.parquet:2", "no text or caption")]
    parquet.write_table(arrow.table({"image": [b""]}), tmp_path / "m.parquet")
    with pytest.raises(ValueError, match=r"it has no column file_name \(its columns: 'image'\)"):
        read_captions(str(tmp_path / "m.parquet"), tmp_path)
    (tmp_path / "m.parquet").write_bytes(b"none of it")
    with pytest.raises(ValueError, match=r"captions_file: .*m\.parquet cannot be read"):
        read_captions(str(tmp_path / "m.parquet"), tmp_path)


def test_parquet_without_pyarrow_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"m\.parquet cannot be read: this format needs pyarrow, .*: pip install"):
        read_captions(str(tmp_path / "m.parquet"), tmp_path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_datasets_reads_the_same_of_an_image_folder(tmp_path: Path, suffix: str) -> None:
    datasets = pytest.importorskip("datasets")
    names = ["b.png", "deep/a.png"]
    for name in names:
        (tmp_path / "photos" / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "train" / name)
    table = datasets.Dataset.from_dict({"file_name": names, "text": ['a "red", round kite', "Grüße"]})
    path = tmp_path / "photos" / "train" / f"metadata.{suffix}"
    {"jsonl": table.to_json, "csv": table.to_csv, "parquet": table.to_parquet}[suffix](str(path))
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "photos"), split="train", cache_dir=str(tmp_path / "cache")
    )
    theirs = theirs.cast_column("image", datasets.Image(decode=False))
    root = tmp_path / "photos"
    found = [(str(Path(row["image"]["path"]).relative_to(root)), row["text"]) for row in theirs]
    assert sorted(found) == sorted(pairs(path, root))


def test_metadata_say_which_pictures_stay_together(tmp_path: Path) -> None:
    lines = ['{"file_name": "a.png", "text": "one", "split_group": "kite"}', '{"file_name": "b.png", "text": "two"}',
             '{"file_name": "c.png", "text": "three", "split_group": ""}',
             '{"file_name": "d.png", "text": "four", "split_group": 3}',
             '{"file_name": "e.png", "text": "five", "split_group": "\\ud83c"}']  # fmt: skip
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.jsonl").write_text("\n".join(lines))
    found = read_captions(str(tmp_path / "in" / "m.jsonl"), tmp_path)
    assert [(entry.id, entry.side) for entry in found.entries] == [
        ("in/a.png", "kite"), ("in/b.png", "in/b.png"), ("in/c.png", "in/c.png"),
    ]  # fmt: skip
    assert [reason for _, reason in found.bad] == [
        "its split_group is no text", "its split_group is no text that can be written",
    ]  # fmt: skip
    (tmp_path / "m.csv").write_text("file_name,split_group,text\na.png,kite,one\nb.png,,two\n")
    assert [entry.group for entry in read_captions(str(tmp_path / "m.csv"), tmp_path).entries] == ["kite", None]
