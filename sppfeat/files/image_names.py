"""Image names: their suffixes, and the matching of names in box and label files to the inputs."""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.errors import BoxError

__all__ = ["IMAGE_SUFFIXES", "count_same_file_names", "has_image_suffix", "match_images"]

# HEIC and JPEG XL are listed although Pillow has no decoder for them: if a scan skipped such photographs silently,
# nobody would notice until the results are wrong.
# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jfif", ".jp2",
    ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".mpo", ".pbm", ".pcx", ".pgm", ".png",
    ".pnm", ".ppm", ".sgi", ".tga", ".tif", ".tiff", ".webp",
})
"""The suffixes of image files, in lower case."""
# fmt: on

# COCO's files of 2014 are called COCO_val2014_000000000042.jpg, those of 2017 000000000042.jpg. Only one part of the
# pattern matches zeros: if several could, a name with 100,000 zeros would take a minute to fail.
_NUMBERED = re.compile(rb"(?:COCO_[a-z]+[0-9]+_)?0*(0|[1-9][0-9]*)")

_UP = re.compile(rb"\A(?:\.\./)+")

_LONGEST = 4096  # characters shown of a name; no path of a file is longer

_STEM = b"/"  # marks a stem, to tell it from a whole name: no file name ends in a slash


def has_image_suffix(name: bytes) -> bool:
    """Return True if a file name has an image suffix.

    Example:
        >>> has_image_suffix(b"a/b.JPG"), has_image_suffix(b"a/.jpg"), has_image_suffix(b"a.cls")
        (True, False, False)
    """
    return os.path.splitext(name)[1].lower().decode("latin-1") in IMAGE_SUFFIXES


_Match: TypeAlias = tuple[int, tuple[int, ...]]
"""A rank, and the images of that rank; two of them stand for any number."""

_NOTHING: _Match = (0, ())


def match_images(
    names: Sequence[bytes], root: bytes, paths: Sequence[bytes], *, kind: str = "path"
) -> npt.NDArray[np.int64]:
    """Match image names in a file of boxes or labels to the inputs.

    A name is a path, or the last parts of one: ``train/1.jpg`` is ``/photos/train/1.jpg``, and so is ``1.jpg``,
    unless another input has the same last parts. An input whose path below the root equals the name takes precedence
    over one whose path only ends with it. A name without an image suffix also matches a file with one.

    Args:
        names: names in the file.
        root: absolute path of the folder above the inputs.
        paths: the inputs, relative to it.
        kind: kind of the names: ``path``; ``id``, a number or text that equals a file name without suffix, apart from
            leading zeros; or ``single``, the one image of a file that names none.

    Returns:
        For each name its index in ``paths``, int64; -1 for a name without a match. BoxError is raised if two inputs
        match a name equally well.
    """
    if kind == "single" and len(paths) == 1:
        return np.zeros(len(names), dtype=np.int64)
    by_number = kind == "id"
    # First the best path of each key, then the best key of each name: many names and many paths can share a key.
    keys = [list(_keys_of_name(name, by_number)) for name in names]
    best: dict[bytes, _Match] = {key: _NOTHING for of_name in keys for key, _ in of_name}
    deepest = max((key.count(b"/") for key in best), default=0)
    for image, path in enumerate(paths):
        for key, rank in _keys_of_path(path, root, deepest, by_number):
            if key in best:
                best[key] = _better(best[key], (rank, (image,)))
    image_of = np.full(len(keys), -1, dtype=np.int64)
    for position, of_name in enumerate(keys):
        found = [(own + best[key][0], best[key][1]) for key, own in of_name if best[key][1]]
        _, images = reduce(_better, found, _NOTHING)
        if len(images) > 1:
            one, other = (_show(paths[image]) for image in images)
            raise BoxError(
                f"an image is named {_show(names[position])}, which could be {one} or {other}: name it by more of "
                "its path"
            )
        if images:
            image_of[position] = images[0]
    return image_of


def _better(one: _Match, other: _Match) -> _Match:
    """Return the match of higher rank; matches of the same rank are joined."""
    if one[0] != other[0]:
        return max(one, other)
    return one[0], tuple(dict.fromkeys(one[1] + other[1]))[:2]


def count_same_file_names(names: Sequence[bytes], paths: Iterable[bytes]) -> int:
    """Count the names that share their file name with a path: such images may have moved to another folder."""
    known = {posixpath.basename(path) for path in paths}
    return sum(posixpath.basename(name.replace(b"\\", b"/")) in known for name in names)


def _keys_of_name(name: bytes, by_number: bool) -> Iterator[tuple[bytes, int]]:
    """Yield the keys of a name with their ranks: best the name itself, then stripped, then with Windows separators."""
    stripped = name.strip()
    # These keys are mostly equal; the last one, which ranks highest, counts.
    ranks = {stripped.replace(b"\\", b"/"): 0, stripped: 4, name: 8}
    for form, rank in ranks.items():
        clean = _clean(form)
        yield clean, rank
        if not has_image_suffix(clean):
            yield clean + _STEM, rank
    folder, last = posixpath.split(_clean(stripped))
    if by_number and _number(last) != last:
        yield posixpath.join(folder, _number(last)) + _STEM, 0


def _keys_of_path(path: bytes, root: bytes, deepest: int, by_number: bool) -> Iterator[tuple[bytes, int]]:
    """Yield the keys of a path with their ranks: 4 or 3 with its suffix, 2 or 1 without."""
    forms = [(path, b"", 2)]
    if has_image_suffix(path):
        stem = os.path.splitext(path)[0]
        forms.append((stem, _STEM, 0))
        folder, last = posixpath.split(stem)
        if by_number and _number(last) != last:
            forms.append((posixpath.join(folder, _number(last)), _STEM, 0))
    for relative, mark, bonus in forms:
        absolute = posixpath.join(root, relative)
        yield relative + mark, bonus + 2
        yield absolute + mark, bonus + 2
        end = len(absolute)
        for _ in range(deepest + 1):
            end = absolute.rfind(b"/", 0, end)
            if end < 0:
                break
            if absolute[end + 1 :] != relative:
                yield absolute[end + 1 :] + mark, bonus + 1


def _clean(name: bytes) -> bytes:
    """Normalize a name for comparison, without leading ``../``."""
    normal = posixpath.normpath(name)
    if normal.startswith(b"//"):  # POSIX leaves its meaning open, and normpath keeps it
        normal = normal[1:]
    return _UP.sub(b"", normal, count=1)


def _number(stem: bytes) -> bytes:
    match = _NUMBERED.fullmatch(stem)
    return match[1] if match else stem


def _show(name: bytes) -> str:
    text = os.fsdecode(name)
    return repr(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
