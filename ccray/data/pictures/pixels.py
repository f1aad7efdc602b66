"""From catalog rows back to pixels: the first step of every map over images, run on CPUs beside the model actors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ccray.data.pictures.images import Limits, Picture, Pixels, Unusable, centre_square, decode, within
from ccray.interfaces import Batch, Failed
from ccray.storage import Root, shard_name

Box = tuple[int, int, int, int]  # left, top, width, height
View = Callable[[Pixels], tuple[Pixels, Box]]


@dataclass(frozen=True)
class SmallView:
    """A view (it is called as one) whose pictures are so small that a large JPEG need not be decoded at full size for them."""

    make: Callable[[Pixels], Pixels]
    box: Callable[[int, int], Box]  # of the oriented original's width and height: the part of it that is left
    at_least_px: int  # of the shorter side that `make` should be given: twice what it makes, so that its own filter decides

    def __call__(self, pixels: Pixels) -> tuple[Pixels, Box]:
        return self.make(pixels), self.box(pixels.shape[1], pixels.shape[0])


# Pixels travel as raw bytes beside their height and width: pictures of one batch differ in size.
PIXELS = pa.schema(
    [
        ("key", pa.int64()),
        ("shard", pa.int32()),
        ("pixels", pa.large_binary()),  # height x width x 3, uint8, C order; null when status is not "ok"
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("crop", pa.list_(pa.int32())),  # [left, top, width, height] of the oriented original
        ("original_size", pa.list_(pa.int32())),  # [width, height]
        ("status", pa.string()),
    ]
)
VIEWED = ("pixels", "height", "width", "crop")  # what each of several views of a picture has of its own
OK = "ok"
TAKEN_DOWN = "taken_down"
WHOLE_PICTURE_PX = 2048  # longer side of a picture that is handed to a model as it is: a batch of any pictures then fits in memory


def with_columns(carried: tuple[str, ...]) -> pa.Schema:
    """`PIXELS`, and columns of text that are carried beside them."""
    return pa.schema([*PIXELS, *((name, pa.string()) for name in carried)])


def with_views(prefixes: Sequence[str]) -> pa.Schema:
    """`PIXELS` with the columns in `VIEWED` once for each prefix."""
    return prefixed(PIXELS, prefixes, [name for name in PIXELS.names if name not in VIEWED])


def prefixed(schema: pa.Schema, prefixes: Sequence[str], shared: Sequence[str]) -> pa.Schema:
    """Columns in `shared` once, then all others once for each prefix, which goes before their names."""
    own = [field for field in schema if field.name not in shared]
    return pa.schema([*(schema.field(name) for name in shared), *(field.with_name(prefix + field.name) for prefix in prefixes for field in own)])


class LoadPixels:
    """Rows with `key` and `shard` -> rows of `PIXELS`: bytes from `images/`, decoded and cut to what the model looks at."""

    def __init__(self, root: Root, view: View | Mapping[str, View], taken_down: frozenset[int] = frozenset(), carried: tuple[str, ...] = ()) -> None:
        """`view` cuts and resizes the upright picture and says which part of it is left; several views of one decoded picture go by the prefix of
        their columns (`with_views` has the schema); images in `taken_down` are not opened; columns in `carried` are handed on as they are
        (`with_columns` has the schema)."""
        self._root = root
        self._views = view if isinstance(view, Mapping) else {"": view}
        self._names = [name for name in with_views([*self._views]).names if name not in ("key", "shard")]
        self._taken_down = taken_down
        self._carried = carried

    def __call__(self, batch: Batch) -> Batch:
        received: dict[int, bytes] = {}
        for shard in np.unique(batch["shard"]):
            received |= read_images(self._root, int(shard), batch["key"][batch["shard"] == shard])
        rows = [self._row(int(key), received.get(int(key))) for key in batch["key"]]
        return self._known(batch) | {name: as_objects([row.get(name) for row in rows]) for name in self._names}

    def _known(self, batch: Batch) -> Batch:
        return {name: batch[name] for name in ("key", "shard", *self._carried)}

    def given_up(self, batch: Batch, why: str) -> Batch:
        """Rows whose bytes end the process that decodes them."""
        nothing = {name: as_objects([None] * len(batch["key"])) for name in self._names}
        return nothing | self._known(batch) | {"status": as_objects([why] * len(batch["key"]))}

    def _row(self, key: int, data: bytes | None) -> dict[str, Any]:
        if key in self._taken_down:
            return {"status": TAKEN_DOWN}
        if data is None:
            return {"status": "bytes_missing"}
        picture = decode(data, Limits(max_pixels=1 << 40, max_bytes=1 << 40), self._at_least_px())  # the catalog's own bounds have passed it
        if isinstance(picture, Unusable):
            return {"status": f"{picture.reason}: {picture.detail}"}
        return self._seen(picture)

    def _at_least_px(self) -> int | None:
        """Of the shorter side after decoding; None: every pixel."""
        small = [view.at_least_px for view in self._views.values() if isinstance(view, SmallView)]
        return max(small) if len(small) == len(self._views) else None

    def _seen(self, picture: Picture) -> dict[str, Any]:
        row: dict[str, Any] = {"original_size": [*picture.received], "status": OK}
        for prefix, view in self._views.items():
            pixels, crop = view(picture.pixels)
            if isinstance(view, SmallView):
                crop = view.box(*picture.received)
            values = (pixels.tobytes(), pixels.shape[0], pixels.shape[1], [*crop])
            row |= {prefix + name: value for name, value in zip(VIEWED, values, strict=True)}
        return row


def read_images(root: Root, shard: int, keys: np.ndarray) -> dict[int, bytes]:
    """Bytes of some images of one shard; only the row groups between the smallest and the largest key are read.

    Raises:
        Failed: when the shard is gone or damaged.
    """
    reach = [("key", ">=", int(keys.min())), ("key", "<=", int(keys.max()))]
    name = f"images/{shard_name(shard)}"
    try:
        table = root.read_table(name, columns=["key", "image"], filters=reach)
    except (pa.ArrowException, OSError) as error:
        why = "it is missing" if isinstance(error, FileNotFoundError) else f"{' '.join(str(error).split())[:200]}"
        raise Failed(
            f"{root.path(name)} cannot be read ({why}): put back a whole copy, or make images/ and catalog/ anew under another --root"
        ) from None
    wanted = {int(key) for key in keys}
    return {key: image for key, image in zip(table.column("key").to_pylist(), table.column("image").to_pylist(), strict=True) if key in wanted}


def pixels_of(batch: Batch, row: int, prefix: str = "") -> Pixels:
    """The picture of one row with status "ok", H W 3; of several views that of `prefix`."""
    height, width = (int(batch[prefix + name][row]) for name in ("height", "width"))
    return np.frombuffer(batch[f"{prefix}pixels"][row], np.uint8).reshape(height, width, 3)


def as_objects(values: list[Any]) -> np.ndarray:
    """A column of anything, one entry a row; numpy would make a matrix of lists of equal length."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def whole_view(pixels: Pixels) -> tuple[Pixels, Box]:
    """The whole picture, reduced only where it is larger than `WHOLE_PICTURE_PX`."""
    return within(pixels, WHOLE_PICTURE_PX), (0, 0, pixels.shape[1], pixels.shape[0])


def square_view(pixels: Pixels, size_px: int) -> tuple[Pixels, Box]:
    """The largest centred square at exactly `size_px`, as in CommonCanvas. A picture whose shorter side is less is enlarged to it, so that every size
    has the same images; its crop, of original pixels, says so, and `catalog.min_size_px` keeps such pictures out."""
    return centre_square(pixels, size_px)


def bounded_square_view(pixels: Pixels, size_px: int) -> tuple[Pixels, Box]:
    """The centre square, reduced to `size_px` only where it is larger; bicubic, as BLIP-2's own processor reduces."""
    return centre_square(pixels, min(size_px, *pixels.shape[:2]), Image.Resampling.BICUBIC)
