"""Thumbnails of rows: images, or boxes with their surroundings."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sppfeat.analysis.search import Query
from sppfeat.config.machine import available_cores
from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS, StrPath
from sppfeat.config.wording import counted
from sppfeat.decoding import Batch, DecoderPool, DecodeSettings
from sppfeat.decoding.images import probe_image
from sppfeat.errors import ImageError
from sppfeat.files.places import Place
from sppfeat.inputs import find_image
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

_SIDE = 128  # pixels
_CONTEXT = 0.25  # surroundings to show on each side of a box, as a share of its side
_MAX_PIXELS = 16_000_000  # maximum size to decode an image at for a small box: 48 MB
_SMALLEST_OUTLINED = 24  # pixels; outlines on smaller thumbnails would hide them
_HANG_SECONDS = 20.0
_INNER, _OUTER = (255, 213, 0), (0, 0, 0)  # yellow on black stands out on every picture


class Thumbnail(NamedTuple):
    """A small picture, ``(h, w, 3)`` uint8 RGB, or the reason why it is missing."""

    pixels: npt.NDArray[np.uint8] | None
    reason: str = ""


class PictureSource(NamedTuple):
    """An image, possibly in an archive, and a box in pixels of the image as displayed."""

    path: bytes
    image_hw: tuple[int, int]
    box: tuple[float, float, float, float]
    is_mirrored: bool = False


def find_row_pictures(
    file: FeatureTable, rows: Sequence[int], *, root: StrPath | None = None
) -> dict[int, PictureSource]:
    """Finds the images and boxes of rows, by row number; ``root`` is the folder that now holds the images."""
    folder, pictured = os.fsencode(file.root if root is None else root), {}
    for row in rows:
        image = int(file.image_index[row])
        height, width = file.image_hw[image].tolist()
        path, box = os.path.join(folder, file.path_table[image]), tuple(file.boxes[row].tolist())
        is_mirrored = file.has_boxes and bool(file.row_mirrored[row])
        pictured[row] = PictureSource(path, (height, width), box, is_mirrored)
    return pictured


def find_query_pictures(queries: Sequence[Query], *, exif: str, max_pixels: int) -> dict[str, PictureSource]:
    """Finds the images and boxes of the queries that are not rows, by the text of the query."""
    pictured = {}
    for query in queries:
        if query.path is not None:
            place = find_image(b"", os.fsencode(query.path))
            height, width = probe_image(place, exif=exif, max_pixels=max_pixels)
            box = query.box or (0.0, 0.0, float(width), float(height))
            pictured[query.text] = PictureSource(os.fsencode(query.path), (height, width), box)
    return pictured


def read_thumbnails(
    pictured: Mapping[Any, PictureSource], *, exif: str, side: int = _SIDE
) -> dict[Any, Thumbnail]:
    """Decodes thumbnails in worker processes; images may be missing, changed or unreadable.

    ``side`` limits the longer side, in pixels, of the image or of the box with its surroundings. Small images are not
    enlarged.
    """
    keys, sources = list(pictured), list(pictured.values())
    thumbnails, batches = dict.fromkeys(keys, Thumbnail(None, "its size is unknown")), []
    for i, source in enumerate(sources):
        height, width = source.image_hw
        if min(height, width) < 1 or not np.isfinite(source.box).all():
            continue
        try:
            place: bytes | Place | str = find_image(b"", source.path)
        except ImageError as error:
            place = str(error)
        longest = max(1.0, *np.diff(_shown(source)[1], axis=0)[0].tolist())
        scale = min(1.0, side / longest, (_MAX_PIXELS / (height * width)) ** 0.5)
        input_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
        batches.append(Batch([i], [place], [source.image_hw], input_hw))
    if not batches:
        return thumbnails
    # The run that wrote the file has accepted these sizes, whatever its limit.
    max_pixels = max(DEFAULT_MAX_DECODE_PIXELS, *(h * w for h, w in (source.image_hw for source in sources)))
    pool = DecoderPool(
        DecodeSettings(exif, "bicubic", max_pixels, decode="fast"),
        n_workers=min(available_cores(), len(batches)),
        look_ahead_bytes=8 << 20,
        hang_seconds=_HANG_SECONDS,
    )
    with contextlib.closing(pool):
        for decoded in pool.decode(batches):
            (i,) = decoded.batch.images
            cut = _cut(decoded.pixels[0], sources[i]) if decoded.images else None
            thumbnails[keys[i]] = Thumbnail(cut, decoded.failures.get(i, ""))
    return thumbnails


def unread_note(thumbnails: Mapping[Any, Thumbnail]) -> tuple[str, ...]:
    """A line about unreadable images; empty without any."""
    unread = [thumbnail.reason for thumbnail in thumbnails.values() if thumbnail.pixels is None]
    if not unread:
        return ()
    n_images = counted(len(thumbnails), "image")
    return (f"{len(unread)} of {n_images} cannot be read; the first: {unread[0]}",)


def encode_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encodes a picture ``(h, w, 3)`` uint8 as the bytes of a JPEG file."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=80, optimize=True)
    return encoded.getvalue()


def _shown(source: PictureSource) -> npt.NDArray[np.float64]:
    """The box, and the box with its surroundings, ``(2, 2, 2)``: upper left and lower right corners ``x, y``."""
    width_height = source.image_hw[::-1]
    box = np.sort(np.clip(np.reshape(source.box, (2, 2)), 0, width_height), axis=0)
    around = (box[1] - box[0]) * _CONTEXT
    return np.stack((box, np.clip((box[0] - around, box[1] + around), 0, width_height)))


def _cut(pixels: npt.NDArray[np.uint8], source: PictureSource) -> npt.NDArray[np.uint8]:
    """Crops a resized image to the box with its surroundings; outlines a box that is not the whole image."""
    whole, resized = np.array(source.image_hw[::-1]), np.array(pixels.shape[1::-1])
    box, part = _shown(source) * (resized / whole)
    left, top = np.minimum(part[0], resized - 1).astype(int)
    right, bottom = np.maximum(np.rint(part[1]).astype(int), (left + 1, top + 1))
    image = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    is_whole = np.array_equal(_shown(source)[0], np.stack((0 * whole, whole)))
    if not is_whole and min(image.size) >= _SMALLEST_OUTLINED:
        box -= (left, top)
        inner = np.clip((box[0], np.maximum(box[0], box[1] - 1)), 0, np.array(image.size) - 1)
        draw = ImageDraw.Draw(image)
        draw.rectangle([*(inner[0] - 1), *(inner[1] + 1)], outline=_OUTER)
        draw.rectangle([*inner[0], *inner[1]], outline=_INNER)
    cut: npt.NDArray[np.uint8] = np.array(image)
    return np.ascontiguousarray(cut[:, ::-1]) if source.is_mirrored else cut
