"""What pictures lose or lack at the size they are trained at, from the headers of some of them."""

from fluxflow_exp.data.buckets import Size, bucket_sizes, nearest
from fluxflow_exp.data.folder_notes import line
from fluxflow_exp.data.images import Images

LOOKED_AT = 1000  # pictures at most, spread over all
PANORAMA = 3.0  # longest to shortest side: a square keeps less than a third


def notes(images: Images) -> list[str]:
    """Return a line about pictures that are enlarged and one about those of which a part only is used, if any."""
    every = -(-len(images.entries) // LOOKED_AT) or 1
    sizes: list[tuple[str, Size]] = []
    known = images.kept_sizes()
    for entry in images.entries[::every]:
        try:
            sizes.append((entry.id, images.size(entry, known)))
        except OSError:
            continue  # told of when it is read
    known.keep()
    ratio = images.transform.max_ratio or 1.0
    shapes = bucket_sizes(images.transform.img_size, ratio)
    small = [name for name, size in sizes if _enlarged(size, nearest(size, shapes))]
    long = [name for name, size in sizes if max(size) > max(PANORAMA, ratio) * min(size)]
    of = f"(of {len(sizes):,} looked at)"
    is_small = f"smaller than img_size={images.transform.img_size} and enlarged {of}"
    is_long = f"longer than {max(PANORAMA, ratio):g}:1 and cut to a part {of}"
    return [line(names, "picture", what) for names, what in ((small, is_small), (long, is_long)) if names]


def _enlarged(size: Size, to: Size) -> bool:
    return size[0] < to[0] or size[1] < to[1]
