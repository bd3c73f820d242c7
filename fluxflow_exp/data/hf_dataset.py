"""A set of Hugging Face's `datasets` as it is: of a folder, or of the hub."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor

from fluxflow_exp.config.bounds import Fraction, PositiveFloat, PositiveInt, Share
from fluxflow_exp.data import folder_notes, several_captions, size_notes
from fluxflow_exp.data.captions import prefixed
from fluxflow_exp.data.hf_rows import Columns, Place, Rows
from fluxflow_exp.data.images import Entry, Images, ImageTransform, check_fraction, is_held_out
from fluxflow_exp.data.transforms import check_colour

N_PROMPTS = 64
NO_STREAM = (
    "rows that stream have no index, by which a run goes on bit for bit. Leave it out: the set is downloaded whole, "
    "once; tar shards, of the hub as well, are streamed by data=webdataset"
)


class HFDataset:
    """Captioned pictures of `split` of a set of the library `datasets`, read by row, each once an epoch.

    The set is the folder `data_path` (what `save_to_disk` has written, parquet or arrow files, pictures with metadata)
    or `dataset_name` of the hub, with `config_name` and `revision`, which is downloaded whole. A picture is decoded
    here, not by `datasets`. `caption_column` is a column of texts, of lists of texts or of class labels, or several
    columns with `caption_weights`; `weight_column` has a list of weights beside each list of captions. Of several
    captions one is chosen by weight each time that a picture is trained on; of held-out pictures the heaviest stands.

    Held out is `held_out_split`, or without it what the hash of a row's name chooses, as of `ImageFolder`. That name is
    what `id_column` holds, or of a picture that is a file its name in the folder, else the split and the number of the
    row. The remaining arguments are those of `ImageFolder`; `streaming` is refused. ValueError: no such set, split or
    column, `datasets` is not installed, or no row with picture and caption.
    """

    reads_back = False

    # One argument for each key of conf/data/hf_dataset.yaml.
    def __init__(
        self,
        *,
        data_path: str | None = None,
        dataset_name: str | None = None,
        config_name: str | None = None,
        revision: str | None = None,
        split: str = "train",
        held_out_split: str | None = None,
        image_column: str = "image",
        caption_column: str | list[str] = "text",
        caption_weights: list[PositiveFloat] | None = None,
        weight_column: str | None = None,
        id_column: str | None = None,
        img_size: PositiveInt = 256,
        crop: Literal["centre", "random"] = "centre",
        flip: bool = False,
        background: str = "white",
        buckets: Annotated[float, Ge(1)] | None = None,
        reduced_min_sizes: list[PositiveInt] | None = None,
        fixed_prompt_prefix: str | None = None,
        validation_fraction: Fraction = 0.1,
        max_bad_fraction: Share = 0.05,
        streaming: bool = False,
    ) -> None:
        if streaming:
            raise ValueError(f"streaming: {NO_STREAM}")
        check_fraction(validation_fraction)
        check_colour(background)
        place = _place(data_path, dataset_name, config_name, revision)
        columns = Columns(
            image_column, _captions(caption_column, caption_weights, weight_column), weight_column, id_column
        )
        self.img_size, self.max_bad_fraction = img_size, max_bad_fraction
        rows = apart = Rows(place, split, columns, fixed_prompt_prefix)
        if held_out_split is None:
            held_out = [e for e in rows.entries if is_held_out(e.id, validation_fraction)]
            trained = [e for e in rows.entries if not is_held_out(e.id, validation_fraction)]
        else:
            if held_out_split == split:
                raise ValueError(f"held_out_split={split} is what is trained on")
            apart = Rows(place, held_out_split, columns, fixed_prompt_prefix)
            trained, held_out = rows.entries, apart.entries
        self.bad = rows.bad + (apart.bad if apart is not rows else [])
        if not held_out or not trained:
            raise ValueError(
                f"{place.words}: {len(trained)} training and {len(held_out)} held-out rows with picture and caption; "
                "there must be some of both" + (f". First: {': '.join(self.bad[0])}" if self.bad else "")
            )
        transform = ImageTransform(img_size, crop, flip, background, buckets, reduced_min_sizes)
        square = ImageTransform(img_size, background=background)
        self.train = Images(trained, rows.file_of, transform, state_of=rows.state_of)
        self.validation = Images(several_captions.single(held_out), apart.file_of, square, state_of=apart.state_of)
        self.notes = _notes(trained + held_out, prefixed("", fixed_prompt_prefix))
        self.notes += folder_notes.unusable(self.bad, "row") + size_notes.notes(self.train)
        self.bad += self.train.bad
        self.prompts = list(dict.fromkeys(e.caption for e in held_out))[:N_PROMPTS]

    def score(self, images: Tensor, captions: list[str]) -> dict[str, float]:
        """Nothing here reads captions back from images."""
        return {}


def _place(data_path: str | None, dataset_name: str | None, config_name: str | None, revision: str | None) -> Place:
    """ValueError: no set is named, or two, or a folder that is none or where the hub is meant."""
    if (data_path is None) == (dataset_name is None):
        raise ValueError(
            "data=hf_dataset needs either data.data_path=FOLDER or data.dataset_name=OWNER/NAME of the hub"
        )
    if data_path is None:
        assert dataset_name is not None
        if Path(dataset_name).expanduser().is_dir():
            raise ValueError(f"dataset_name={dataset_name} is a folder: give it as data.data_path")
        return Place(None, dataset_name, config_name, revision)
    folder = Path(data_path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data_path: {folder_notes.no_folder(folder)}")
    if revision is not None:
        raise ValueError(f"revision={revision} is of sets of the hub (data.dataset_name), and data_path names a folder")
    return Place(folder, None, config_name, revision)


def _captions(columns: str | list[str], weights: list[float] | None, weight_column: str | None) -> dict[str, float]:
    """Column → weight. ValueError: not as many of both, or weights of both kinds."""
    named = [columns] if isinstance(columns, str) else list(columns)
    if not named or len(set(named)) < len(named):
        raise ValueError(f"caption_column must name columns, each once, not {columns}")
    if weights is not None and len(weights) != len(named):
        raise ValueError(f"caption_weights has {len(weights)} numbers for {len(named)} columns of caption_column")
    if weight_column is not None and len(named) > 1:
        raise ValueError("weight_column holds the weights of one caption_column; those of several are caption_weights")
    return dict(zip(named, weights or [1.0] * len(named), strict=True))


def _notes(entries: list[Entry], empty: str) -> list[str]:
    bare = [entry.id for entry in entries if empty in dict(entry.weighted)]
    return [*([folder_notes.line(bare, "caption", "empty")] if bare else []), *several_captions.notes(entries)]
