"""Thumbnails of rows: the image, or the box with its surroundings."""

import contextlib
import io
import os
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sppfeat.analysis.search.queries import Query
from sppfeat.config.machine import available_cores
from sppfeat.decoding import Batch, DecoderPool, DecodeSettings
from sppfeat.decoding.images import probe_image
from sppfeat.errors import ImageError
from sppfeat.inputs.lookup import find_image
from sppfeat.store.feature_table import FeatureTable

__all__ = [
    "THUMBNAIL_SIDE",
    "PictureSource",
    "Thumbnail",
    "encode_jpeg",
    "find_query_pictures",
    "find_row_pictures",
    "read_thumbnails",
]

_Key = TypeVar("_Key", bound=Hashable)

THUMBNAIL_SIDE = 64
_CONTEXT = 0.25  # surroundings shown on each side of a box, as a share of its side
_MAX_PIXELS = 16_000_000  # maximum size to decode an image at to show a small box of it: 48 MB
_SMALLEST_OUTLINED = 24  # pixels; outlines of smaller boxes would hide the picture
_HANG_SECONDS = 20.0
_SECONDS = 120.0
_INNER, _OUTER = (255, 213, 0), (0, 0, 0)  # yellow on black stands out on every picture


class Thumbnail(NamedTuple):
    """A small picture of a row, or the reason why there is none.

    Attributes:
        pixels: ``(h, w, 3)`` uint8 RGB; None if the image cannot be read.
        reason: reason why there is no picture; empty if there is one.
    """

    pixels: npt.NDArray[np.uint8] | None
    reason: str = ""


class PictureSource(NamedTuple):
    """Image and box to make a thumbnail of.

    Attributes:
        path: path of the image, which may lie in an archive.
        image_hw: height and width of the image as displayed, in pixels.
        box: ``x0, y0, x1, y1`` in pixels of the image as displayed, edges, half-open.
        is_mirrored: True for the mirror image.
    """

    path: bytes
    image_hw: tuple[int, int]
    box: tuple[float, float, float, float]
    is_mirrored: bool = False


class _View(NamedTuple):
    """Visible part of a resized image.

    Attributes:
        input_hw: height and width of the whole image after resizing, in pixels.
        crop: the visible part, ``x0, y0, x1, y1`` in pixels of the resized image, half-open.
        box: ``x0, y0, x1, y1`` in pixels of the crop; None if the box is the whole image.
    """

    input_hw: tuple[int, int]
    crop: tuple[int, int, int, int]
    box: tuple[float, float, float, float] | None


def find_row_pictures(
    file: FeatureTable, rows: Sequence[int], *, root: str | os.PathLike[str] | None = None
) -> dict[int, PictureSource]:
    """Finds the images and boxes of some rows, by row number.

    Args:
        file: the open file.
        rows: row numbers.
        root: folder that now holds the images; the root recorded in the file if None.
    """
    wanted = np.array(list(dict.fromkeys(rows)), dtype=np.int64)
    images = file.image_index[wanted]
    image_hw, boxes = file.image_hw[images].tolist(), file.boxes[wanted].tolist()
    mirrored = file.row_mirrored[wanted].tolist() if file.has_boxes else [False] * len(wanted)
    folder = os.fsencode(file.root if root is None else root)
    return {
        row: PictureSource(
            os.path.join(folder, file.path_table[image]), (hw[0], hw[1]), tuple(box), is_mirrored
        )
        for row, image, hw, box, is_mirrored in zip(
            wanted.tolist(), images.tolist(), image_hw, boxes, mirrored, strict=True
        )
    }


def find_query_pictures(queries: Sequence[Query], *, exif: str) -> dict[str, PictureSource]:
    """Finds the images and boxes of all queries that are not rows, by the texts of the queries.

    Raises:
        ImageError: an image can no longer be read.
    """
    pictured = {}
    for query in queries:
        if query.path is not None:
            height, width = probe_image(find_image(b"", os.fsencode(query.path)), exif=exif)
            box = query.box or (0.0, 0.0, float(width), float(height))
            pictured[query.text] = PictureSource(os.fsencode(query.path), (height, width), box)
    return pictured


def read_thumbnails(
    pictured: Mapping[_Key, PictureSource],
    *,
    exif: str,
    side: int = THUMBNAIL_SIDE,
    seconds: float = _SECONDS,
) -> dict[_Key, Thumbnail]:
    """Decodes thumbnails in worker processes.

    Args:
        pictured: images and boxes by any key; all of them are read.
        exif: ``"apply"`` or ``"ignore"`` the EXIF orientation, as in the file's settings.
        side: longest side in pixels, of the image or of the box with its surroundings. Nothing is enlarged.
        seconds: time limit, after which the remaining ones get a reason instead of a picture.

    Returns:
        A thumbnail for each key, or the reason why there is none: the image is missing, changed, or unreadable.
    """
    keys = list(pictured)
    views = [_view(of, side) for of in pictured.values()]
    found = {}
    tasks = []
    for i, (key, of) in enumerate(pictured.items()):
        view = views[i]
        if view is None:
            found[key] = Thumbnail(None, "its size is not known")
            continue
        try:
            tasks.append(Batch([i], [find_image(b"", of.path)], [of.image_hw], view.input_hw))
        except ImageError as error:
            found[key] = Thumbnail(None, str(error))
    for i, pixels, reason in _decode(tasks, exif=exif, seconds=seconds):
        view = views[i]
        if pixels is None or view is None:
            found[keys[i]] = Thumbnail(None, reason)
        else:
            cut = _cut(pixels, view)
            found[keys[i]] = Thumbnail(cut[:, ::-1].copy() if pictured[keys[i]].is_mirrored else cut)
    return {key: found[key] for key in keys}


def encode_jpeg(pixels: npt.NDArray[np.uint8], *, quality: int = 80) -> bytes:
    """Encodes a picture ``(h, w, 3)`` uint8 as the bytes of a JPEG file."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=quality, optimize=True)
    return encoded.getvalue()


def _decode(
    tasks: Sequence[Batch], *, exif: str, seconds: float
) -> Iterator[tuple[int, npt.NDArray[np.uint8] | None, str]]:
    """Yields the image number of each task, which has one image, with its pixels or the reason why there are none."""
    if not tasks:
        return
    settings = DecodeSettings(exif, "bicubic", decode="fast")
    pool = DecoderPool(
        settings,
        n_workers=min(available_cores(), len(tasks)),
        look_ahead_bytes=8 << 20,
        hang_seconds=_HANG_SECONDS,
    )
    n_done, end = 0, time.monotonic() + seconds
    with contextlib.closing(pool):
        for decoded in pool.decode(tasks):
            (position,) = tasks[n_done].images
            n_done += 1
            if decoded.images:
                yield position, decoded.pixels[0].copy(), ""
            else:
                yield position, None, decoded.failures[position]
            if time.monotonic() > end:
                break
    for task in tasks[n_done:]:
        yield task.images[0], None, f"not read within {seconds:g} seconds"


def _view(pictured: PictureSource, side: int) -> _View | None:
    """Part of an image to show for a box; None if the image has no size."""
    (height, width), box = pictured.image_hw, pictured.box
    if min(height, width) < 1 or not np.isfinite(box).all():
        return None
    x0, x1 = sorted(min(max(x, 0.0), float(width)) for x in box[::2])
    y0, y1 = sorted(min(max(y, 0.0), float(height)) for y in box[1::2])
    is_whole = (x0, y0, x1, y1) == (0, 0, width, height)
    dx, dy = ((x1 - x0) * _CONTEXT, (y1 - y0) * _CONTEXT)
    x0_shown, x1_shown = max(0.0, x0 - dx), min(float(width), x1 + dx)
    y0_shown, y1_shown = max(0.0, y0 - dy), min(float(height), y1 + dy)
    longest = max(x1_shown - x0_shown, y1_shown - y0_shown, 1.0)
    scale = min(1.0, side / longest, (_MAX_PIXELS / (height * width)) ** 0.5)
    input_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
    fy, fx = input_hw[0] / height, input_hw[1] / width
    left, top = min(int(x0_shown * fx), input_hw[1] - 1), min(int(y0_shown * fy), input_hw[0] - 1)
    right = min(max(left + 1, round(x1_shown * fx)), input_hw[1])
    bottom = min(max(top + 1, round(y1_shown * fy)), input_hw[0])
    inner = (x0 * fx - left, y0 * fy - top, x1 * fx - left, y1 * fy - top)
    return _View(input_hw, (left, top, right, bottom), None if is_whole else inner)


def _cut(pixels: npt.NDArray[np.uint8], view: _View) -> npt.NDArray[np.uint8]:
    """Crops a resized image to its visible part and outlines the box."""
    left, top, right, bottom = view.crop
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    if view.box is None or min(part.shape[:2]) < _SMALLEST_OUTLINED:
        return part
    image = Image.fromarray(part)
    draw = ImageDraw.Draw(image)
    x0, y0, x1, y1 = view.box
    last_x, last_y = image.width - 1, image.height - 1
    inner = (max(0, x0), max(0, y0), min(last_x, max(x0, x1 - 1)), min(last_y, max(y0, y1 - 1)))
    draw.rectangle((inner[0] - 1, inner[1] - 1, inner[2] + 1, inner[3] + 1), outline=_OUTER)
    draw.rectangle(inner, outline=_INNER)
    return np.asarray(image)
