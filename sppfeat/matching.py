"""Which image a box file means by a name."""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.box_table import BoxTable
from sppfeat.errors import BoxError
from sppfeat.images import IMAGE_SUFFIXES

__all__ = ["match_images"]

# COCO's files of 2014 are called COCO_val2014_000000000042.jpg, those of 2017 000000000042.jpg.
_NUMBERED = re.compile(rb"(?:COCO_[a-z]+[0-9]+_)?0*([0-9]+)")


class _Found(NamedTuple):
    rank: int
    image: int
    rival: int | None = None  # another image of the same rank


def match_images(table: BoxTable, root: bytes, paths: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """For each image that a box file names, the input that it is.

    A name is a path, or the last parts of one: ``train/1.jpg`` is ``/photos/train/1.jpg``, and so is
    ``1.jpg``, as long as no other input ends so. An input whose path below the root equals the name goes
    before one that only ends so. A name without the suffix of an image stands for the file with one.

    Args:
        table: the box file.
        root: absolute path of the folder that the inputs lie under.
        paths: the inputs, relative to it.

    Returns:
        ``(M,)`` int64, index into ``paths``; -1 for an image that is not among them.

    Raises:
        BoxError: a name that two inputs fit equally well.
    """
    if table.names == "single" and len(paths) == 1:
        return np.zeros(len(table.images), dtype=np.int64)
    names = [_clean(name) for name in table.images]
    wanted: dict[bytes, list[int]] = {}
    for position, name in enumerate(names):
        for key in _keys_of_name(name, table.names):
            wanted.setdefault(key, []).append(position)
    best: dict[int, _Found] = {}
    for image, path in enumerate(paths):
        for key in _keys_of_path(path, table.names):
            for position in wanted.get(key, ()):
                rank = 1 if table.names == "id" else _rank(names[position], root, path)
                best[position] = _better(best.get(position, _Found(0, -1)), rank, image)
    for position, found in best.items():
        if found.rival is not None:
            raise BoxError(
                f"the box file names an image {_show(table.images[position])}, which could be "
                f"{_show(paths[found.image])} or {_show(paths[found.rival])}: name it by more of its path"
            )
    return np.array([best[i].image if i in best else -1 for i in range(len(names))], dtype=np.int64)


def _clean(name: bytes) -> bytes:
    """Return a name in the one form that paths are compared in, without what leads up and out."""
    normal = posixpath.normpath(name.strip())
    while normal.startswith(b"../"):
        normal = normal[3:]
    return normal


def _keys_of_name(name: bytes, names: str) -> Iterator[bytes]:
    """Yield what is looked up of a name: its last part, with and without the suffix of an image."""
    last = posixpath.basename(name)
    if names == "id":
        yield _number(last)
        return
    yield last
    if os.path.splitext(last)[1].lower().decode("latin-1") not in IMAGE_SUFFIXES:
        yield b"/" + last  # no file name has a slash: so marked, a stem is not taken for a name


def _keys_of_path(path: bytes, names: str) -> Iterator[bytes]:
    last = posixpath.basename(path)
    stem = os.path.splitext(last)[0]
    if names == "id":
        yield _number(stem)
        return
    yield last
    yield b"/" + stem


def _number(stem: bytes) -> bytes:
    match = _NUMBERED.fullmatch(stem)
    return match[1] if match else stem


def _rank(name: bytes, root: bytes, path: bytes) -> int:
    """How well a path fits a name: 4 or 3 with its suffix, 2 or 1 without, the higher one if from the root."""
    whole = posixpath.join(root, path)
    for with_suffix, (relative, absolute) in (
        (True, (path, whole)),
        (False, (os.path.splitext(path)[0], os.path.splitext(whole)[0])),
    ):
        bonus = 2 if with_suffix else 0
        if name in (relative, absolute):
            return bonus + 2
        if not name.startswith(b"/") and absolute.endswith(b"/" + name):
            return bonus + 1
    return 0


def _better(found: _Found, rank: int, image: int) -> _Found:
    if rank > found.rank:
        return _Found(rank, image)
    if rank == found.rank and rank and image != found.image:
        return found._replace(rival=image)
    return found


def _show(name: bytes) -> str:
    return repr(os.fsdecode(name))
