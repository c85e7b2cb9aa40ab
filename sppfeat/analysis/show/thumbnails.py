"""Thumbnails of rows: the image, or the box with its surroundings."""

import contextlib
import io
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sppfeat.analysis.search.queries import Query
from sppfeat.config.machine import available_cores
from sppfeat.config.wording import counted
from sppfeat.decoding import Batch, DecoderPool, DecodeSettings
from sppfeat.decoding.images import probe_image
from sppfeat.errors import ImageError
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs.lookup import find_image
from sppfeat.store.feature_table import FeatureTable

__all__ = [
    "PictureSource",
    "Thumbnail",
    "encode_jpeg",
    "find_query_pictures",
    "find_row_pictures",
    "read_thumbnails",
    "unread_note",
]

_Key = TypeVar("_Key", bound=Hashable)

_SIDE = 128  # pixels
_CONTEXT = 0.25  # surroundings shown on each side of a box, as a share of its side
_MAX_PIXELS = 16_000_000  # maximum size to decode an image at to show a small box of it: 48 MB
_SMALLEST_OUTLINED = 24  # pixels; outlines of smaller boxes would hide the picture
_HANG_SECONDS = 20.0
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


def find_row_pictures(
    file: FeatureTable, rows: Sequence[int], *, root: str | os.PathLike[str] | None = None
) -> dict[int, PictureSource]:
    """Finds the images and boxes of some rows, by row number; ``root`` is the folder that now holds the images."""
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
    pictured: Mapping[_Key, PictureSource], *, exif: str, side: int = _SIDE
) -> dict[_Key, Thumbnail]:
    """Decodes thumbnails in worker processes.

    Args:
        pictured: images and boxes by any key; all of them are read.
        exif: ``"apply"`` or ``"ignore"`` the EXIF orientation, as in the file's settings.
        side: longest side in pixels, of the image or of the box with its surroundings. Nothing is enlarged.

    Returns:
        A thumbnail for each key, or the reason why there is none: the image is missing, changed, or unreadable.
    """
    sources = list(pictured.values())
    shown = [_shown(source) for source in sources]
    thumbnails, batches = [Thumbnail(None, "its size is not known")] * len(sources), []
    for i, (source, part) in enumerate(zip(sources, shown, strict=True)):
        if part is not None:
            try:
                place: bytes | Place | str = find_image(b"", source.path)
            except ImageError as error:
                place = str(error)
            height, width = source.image_hw
            longest = max(1.0, *(part[1, 2:] - part[1, :2]).tolist())
            scale = min(1.0, side / longest, (_MAX_PIXELS / (height * width)) ** 0.5)
            input_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
            batches.append(Batch([i], [place], [source.image_hw], input_hw))
    if not batches:
        return dict(zip(pictured, thumbnails, strict=True))
    pool = DecoderPool(
        DecodeSettings(exif, "bicubic", decode="fast"),
        n_workers=min(available_cores(), len(batches)),
        look_ahead_bytes=8 << 20,
        hang_seconds=_HANG_SECONDS,
    )
    with contextlib.closing(pool):
        for decoded in pool.decode(batches):
            (i,) = decoded.batch.images
            if not decoded.images:
                thumbnails[i] = Thumbnail(None, decoded.failures[i])
            elif (part := shown[i]) is not None:
                cut = _cut(decoded.pixels[0], sources[i], part)
                thumbnails[i] = Thumbnail(cut[:, ::-1].copy() if sources[i].is_mirrored else cut)
    return dict(zip(pictured, thumbnails, strict=True))


def unread_note(thumbnails: Mapping[_Key, Thumbnail]) -> tuple[str, ...]:
    """A line about the images that cannot be read, if there are any."""
    unread = [thumbnail.reason for thumbnail in thumbnails.values() if thumbnail.pixels is None]
    if not unread:
        return ()
    n_images = counted(len(thumbnails), "image")
    return (f"{len(unread)} of {n_images} cannot be read; the first of them: {unread[0]}",)


def encode_jpeg(pixels: npt.NDArray[np.uint8], *, quality: int = 80) -> bytes:
    """Encodes a picture ``(h, w, 3)`` uint8 as the bytes of a JPEG file."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=quality, optimize=True)
    return encoded.getvalue()


def _shown(source: PictureSource) -> npt.NDArray[np.float64] | None:
    """The box and the box with its surroundings, ``(2, 4)`` in pixels of the image; None if the image has no size."""
    height, width = source.image_hw
    if min(height, width) < 1 or not np.isfinite(source.box).all():
        return None
    low, high = np.sort(np.clip(np.reshape(source.box, (2, 2)), 0, (width, height)), axis=0)
    around = (high - low) * _CONTEXT
    part = np.clip((low - around, high + around), 0, (width, height))
    return np.stack((np.concatenate((low, high)), part.ravel()))


def _cut(
    pixels: npt.NDArray[np.uint8], source: PictureSource, shown: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Crops a resized image to its visible part, and outlines the box if it is not the whole image."""
    (height, width), (in_h, in_w) = source.image_hw, pixels.shape[:2]
    fx, fy = in_w / width, in_h / height
    (x0, y0, x1, y1), part = shown.tolist()
    left, top = min(int(part[0] * fx), in_w - 1), min(int(part[1] * fy), in_h - 1)
    right, bottom = max(left + 1, round(part[2] * fx)), max(top + 1, round(part[3] * fy))
    image = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    if (x0, y0, x1, y1) != (0, 0, width, height) and min(image.size) >= _SMALLEST_OUTLINED:
        last_x, last_y = image.width - 1, image.height - 1
        x0, y0, x1, y1 = x0 * fx - left, y0 * fy - top, x1 * fx - left, y1 * fy - top
        inner = (max(0, x0), max(0, y0), min(last_x, max(x0, x1 - 1)), min(last_y, max(y0, y1 - 1)))
        draw = ImageDraw.Draw(image)
        draw.rectangle((inner[0] - 1, inner[1] - 1, inner[2] + 1, inner[3] + 1), outline=_OUTER)
        draw.rectangle(inner, outline=_INNER)
    return np.asarray(image)
