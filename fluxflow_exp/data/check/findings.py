"""What is found of pictures and captions, kind by kind."""

from collections import Counter
from typing import NamedTuple

from fluxflow_exp.data import folder_notes
from fluxflow_exp.data.captions import prefixed
from fluxflow_exp.data.captions_file import FORMS
from fluxflow_exp.data.check.duplicates import APART
from fluxflow_exp.data.check.look import KINDS
from fluxflow_exp.data.check.survey import Survey
from fluxflow_exp.data.size_notes import PANORAMA
from fluxflow_exp.errors import counted

# How much a finding matters.
LOST, DOUBTFUL, TOLD = "lost to training", "worth a look", "for information"
NO_CAPTIONS = (
    f"data=image_folder refuses a folder without captions: give {FORMS}. An autoencoder alone (stage=vae) reads "
    "none: a file with a line name<TAB> for each picture will do"
)
TINY = 2.0  # times that a very small picture is enlarged at least


class Item(NamedTuple):
    """One example: a picture, or a line of captions."""

    name: str
    detail: str = ""
    pictures: tuple[str, ...] = ()  # names of what to show


class Finding(NamedTuple):
    """One kind of trouble."""

    rank: str  # LOST | DOUBTFUL | TOLD
    title: str
    items: list[Item]
    advice: str = ""


def findings(survey: Survey) -> list[Finding]:
    """All kinds that were met, the gravest first."""
    found = [*_lost(survey), *_copies(survey), *_captions(survey), *_sizes(survey), *_kinds(survey)]
    return [each for rank in (LOST, DOUBTFUL, TOLD) for each in found if each.rank == rank and each.items]


def _lost(survey: Survey) -> list[Finding]:
    cause = folder_notes.cause(survey.missing, survey.listing) if survey.missing else ""
    bad = survey.captions.bad + survey.apart.bad
    bare = survey.bare if survey.wanted.captions_file else survey.names
    rank, advice = (DOUBTFUL, "they are not trained on") if survey.wanted.captions_file else (LOST, NO_CAPTIONS)
    return [
        Finding(LOST, "unreadable pictures", [Item(name, why) for name, why in survey.wrong.items()],
                "make them anew, or leave them out"),
        Finding(LOST, "captions without a picture", [Item(name) for name in survey.missing], cause),
        Finding(LOST, "unusable captions", [Item(where, why) for where, why in bad]),
        Finding(rank, "pictures without a caption", [Item(name, pictures=(name,)) for name in bare], advice),
    ]  # fmt: skip


def _copies(survey: Survey) -> list[Finding]:
    names = survey.names
    exact, near = list[Item](), list[Item]()
    for pair in survey.pairs:
        first, second = names[pair.first], names[pair.second]
        how = f"{'mirrored, ' if pair.mirrored else ''}{pair.distance:.1f} of 255 apart"
        item = Item(second, f"is {first}" if pair.exact else f"is nearly {first} ({how})", (second, first))
        (exact if pair.exact else near).append(item)
    sizes = [len(group) for group in survey.groups]
    together = f"copies are in {counted(len(sizes), 'group')}, the largest of {max(sizes, default=0):,}"
    parted = []
    for group in survey.parted():
        held_out = [name for name in group if name in survey.held_out]
        trained = next(name for name in group if name not in survey.held_out)
        parted += [Item(name, f"is held out, and {trained} is trained on", (name, trained)) for name in held_out]
    return [
        Finding(DOUBTFUL, "held-out pictures that are trained on as a copy", parted,
                "held-out measures are too good by these: --fix puts copies on one side"),
        Finding(DOUBTFUL, "copies, byte for byte", exact, "--fix drops those with the same caption"),
        Finding(DOUBTFUL, "near copies", near,
                f"at most {APART:.0f} of 255 apart, mirrored or not, up to 15 % brighter, darker or of other contrast; "
                f"{together}; --fix keeps each on one side of the split"),
    ]  # fmt: skip


def _captions(survey: Survey) -> list[Finding]:
    said, prefix = survey.said, survey.wanted.prefix
    repeated = [(caption, count) for caption, count in Counter(each for _, each in said).most_common()
                if caption and count > 1]  # fmt: skip
    example = {caption: name for name, caption in reversed(said)}
    twice = [entry.id for entry, count in Counter(survey.entries).items() if count > 1]
    encoder, cut, advice = survey.wanted.text_encoder, list[Item](), ""
    if encoder is not None and said:
        limit = encoder.max_length
        lengths = encoder.lengths([prefixed(caption, prefix) for _, caption in said])
        for (name, caption), length in zip(said, lengths, strict=True):
            cut += [Item(name, f"{length:,} {encoder.unit}: {_short(caption)}")] if length > limit else []
        advice = f"the text encoder reads {limit} {encoder.unit}: shorten them, or raise model.text_encoder.max_length"
    empty = [name for name, caption in said if not caption]
    lonely = [Item(note) for note in survey.captions.notes + survey.apart.notes]
    return [
        Finding(DOUBTFUL, "captions cut by the text encoder", cut, advice),
        Finding(DOUBTFUL, "empty captions", [Item(name, pictures=(name,)) for name in empty],
                "trained on as they are; --fix drops them"),
        Finding(DOUBTFUL, "captions that stand several times",
                [Item(_short(caption), f"{count:,} times", (example[caption],)) for caption, count in repeated]),
        Finding(DOUBTFUL, "repeated lines", [Item(name) for name in twice], "--fix drops them"),
        Finding(DOUBTFUL, "notes on the captions", lonely),
    ]  # fmt: skip


def _sizes(survey: Survey) -> list[Finding]:
    img_size, longest = survey.wanted.img_size, max(PANORAMA, survey.wanted.max_ratio or 1.0)
    tiny, long = [], []
    for index, (height, width) in zip(survey.at, survey.sizes.tolist(), strict=True):
        item = Item(survey.names[index], f"{width} x {height} px", (survey.names[index],))
        if min(height, width) * TINY <= img_size:
            tiny.append(item)
        if max(height, width) > longest * min(height, width):
            long.append(item)
    return [
        Finding(DOUBTFUL, "very small pictures", tiny, f"enlarged {TINY:g} times or more at img_size={img_size}"),
        Finding(DOUBTFUL, "panoramas", long, f"longer than {longest:g}:1, of which training sees a part"),
    ]


def _kinds(survey: Survey) -> list[Finding]:
    found = []
    for kind, meaning in KINDS.items():
        rank = DOUBTFUL if kind == "plain" else TOLD
        shown = [Item(name, pictures=(name,)) for name in survey.kinds.get(kind, [])]
        title, _, advice = meaning.partition(": ")
        found.append(Finding(rank, title, shown, advice))
    return found


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]} …"
