"""Image suffixes, and the matching of names in box files, label tables and image tables to the inputs."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import reduce
from itertools import groupby
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import counted, first_few
from sppfeat.errors import BoxError

__all__ = [
    "IMAGE_SUFFIXES",
    "Matches",
    "NameRule",
    "has_image_suffix",
    "match_images",
    "normalize_name",
    "note_on_rule",
]

# HEIC and JPEG XL are listed although Pillow has no decoder for them: a scan that skipped such photographs silently
# would go unnoticed until the results are wrong.
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

_SHOWN = 3

_STEM = b"/"  # distinguishes a stem from a whole name: no file name ends in a slash


def has_image_suffix(name: bytes) -> bool:
    """Return True if a file name has an image suffix.

    Example:
        >>> has_image_suffix(b"a/b.JPG"), has_image_suffix(b"a/.jpg"), has_image_suffix(b"a.cls")
        (True, False, False)
    """
    return os.path.splitext(name)[1].lower().decode("latin-1") in IMAGE_SUFFIXES


class NameRule(IntEnum):
    """Rules by which a name matches, from the strongest to the weakest."""

    WHOLE, NORMALIZED, SEPARATORS, TAIL, FILE_NAME, STEM = range(6)


_RULE_TEXTS = {
    NameRule.NORMALIZED: "matched only after Unicode normalization",
    NameRule.SEPARATORS: "matched with \\ read as /",
    NameRule.TAIL: "matched only by the end of the path",
    NameRule.FILE_NAME: "matched only by the file name",
    NameRule.STEM: "matched only by the file name without its suffix",
}


class Matches(NamedTuple):
    """The inputs that names match.

    Attributes:
        image_of: for each of the ``n`` names the index of its input, ``(n,)`` int64; -1 for a name without a match.
        notes: sentences for the user, to follow the name of the file: how many names a weaker rule matched, and which
            names are ambiguous.
    """

    image_of: npt.NDArray[np.int64]
    notes: tuple[str, ...] = ()


class _Found(NamedTuple):
    """The input of a name, the rule that fits, and the number of equal parts at the end."""

    image: int
    rule: NameRule
    n_parts: int = 0

    @property
    def strength(self) -> tuple[int, int]:
        """A sort key; stronger matches sort first."""
        return self.rule, -self.n_parts


_Match: TypeAlias = tuple[int, tuple[int, ...]]
"""A rank, and the images of that rank; two images stand for any number of them."""

_NOTHING: _Match = (0, ())


def match_images(
    names: Sequence[bytes], root: bytes, paths: Sequence[bytes], *, kind: str = "path"
) -> Matches:
    r"""Match image names in a box file, label table or image table to the inputs.

    The first rule that fits a name decides:

    1. The name is a path, or the last parts of one: ``train/1.jpg`` is ``/photos/train/1.jpg``, and so is ``1.jpg``. An
       input whose path below the root equals the name takes precedence over one whose path only ends with it. A name
       without an image suffix also matches a file with one.
    2. The same after Unicode normalization (NFC) of both.
    3. The same with ``\`` read as ``/`` in both.
    4. The longest end of the name that is the end of a path: ``/home/alice/train/1.jpg`` is ``train/1.jpg``.
    5. The same without suffixes: ``1.png`` is ``1.jpg``.

    Every rule but the first adds a note. A name that fits several inputs by rule 4 or 5 matches none. Neither does a
    name if another one fits the same input as well or better: if the file also has ``train/1.jpg``, ``val/1.jpg`` is
    not the input ``train/1.jpg``. A note lists such names.

    Args:
        names: names in the file.
        root: absolute path of the folder above the inputs.
        paths: the inputs, relative to it.
        kind: kind of the names: ``path``; ``id``, a number or text that equals a file name without suffix, apart from
            leading zeros; or ``single``, the only image of a file that names none.

    Raises:
        BoxError: a name fits two inputs equally well by one of the rules 1 to 3.
    """
    if kind == "single" and len(paths) == 1:
        return Matches(np.zeros(len(names), dtype=np.int64))
    found: dict[int, _Found] = {}
    left = dict(enumerate(names))
    own_root, own_paths = root, paths
    for rule in (NameRule.WHOLE, NameRule.NORMALIZED, NameRule.SEPARATORS):
        if not left or not len(paths):
            break
        tried = left
        if rule != NameRule.WHOLE:
            respell = normalize_name if rule == NameRule.NORMALIZED else _with_slashes
            left = {position: respell(name) for position, name in left.items()}
            respelled = list(map(respell, own_paths))
            is_same = respelled == list(own_paths)
            tried = {i: name for i, name in left.items() if not is_same or name != names[i]}
            own_root, own_paths = respell(own_root), respelled
        if not tried:
            continue
        images = _match_whole([*tried.values()], own_root, own_paths, kind=kind, shown=paths)
        new = {i: _Found(image, rule) for i, image in zip(tried, images, strict=True) if image >= 0}
        found |= new
        left = {position: name for position, name in left.items() if position not in new}
    left_out: dict[int, tuple[int, ...]] = {}
    if left and len(paths):
        stems = set(map(_stem_of, own_paths))
        cleaned = {position: _clean(name.strip()) for position, name in left.items()}
        cleaned = {position: name for position, name in cleaned.items() if _stem_of(name) in stems}
        ends = _Ends(cleaned.values(), own_root, own_paths)
        for position, name in cleaned.items():
            rule, n_parts, fitting = ends.longest(name)
            if len(fitting) == 1:
                found[position] = _Found(fitting[0], rule, n_parts)
            elif fitting:
                left_out[position] = fitting
        for position in _find_rivals(found, names):
            left_out[position] = (found.pop(position).image,)
    image_of = np.full(len(names), -1, dtype=np.int64)
    image_of[[*found]] = [match.image for match in found.values()]
    return Matches(
        image_of, (*_notes_on_rules(found, names, paths), *_notes_on_left_out(left_out, names, paths))
    )


def _plain_spelling(name: bytes) -> bytes:
    return _with_slashes(normalize_name(name))


def normalize_name(name: bytes) -> bytes:
    """Return a name after Unicode normalization (NFC); bytes that are not UTF-8 stay as they are."""
    if name.isascii():
        return name
    text = name.decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")


def _with_slashes(name: bytes) -> bytes:
    return name.replace(b"\\", b"/")


def note_on_rule(rule: NameRule, names: Sequence[bytes], first: bytes) -> str:
    """Return a note that names matched by a weaker rule, with the first of them and its input."""
    more = ", ..." if len(names) > 1 else ""
    return f"{counted(len(names), 'name')} {_RULE_TEXTS[rule]}: {_show(names[0])} is {_show(first)}{more}"


def _notes_on_rules(
    found: dict[int, _Found], names: Sequence[bytes], paths: Sequence[bytes]
) -> Iterator[str]:
    by_rule = sorted((match.rule, position) for position, match in found.items() if match.rule in _RULE_TEXTS)
    for rule, group in groupby(by_rule, key=lambda pair: pair[0]):
        same = [position for _, position in group]
        yield note_on_rule(rule, [names[i] for i in same], paths[found[same[0]].image])


def _notes_on_left_out(
    left_out: dict[int, tuple[int, ...]], names: Sequence[bytes], paths: Sequence[bytes]
) -> Iterator[str]:
    for is_rival, one, many, why in (
        (False, "fits several images and is", "fit several images and are", ""),
        (True, "is", "are", ", because another name fits the same image as well or better"),
    ):
        skipped = {i: images for i, images in left_out.items() if (len(images) == 1) == is_rival}
        shown = (
            f"{_show(names[i])} ({' or '.join(_show(paths[image]) for image in images)})"
            for i, images in skipped.items()
        )
        if skipped:
            count = counted(len(skipped), f"name {one}", f"names {many}")
            yield f"{count} left out{why}: {first_few(shown, _SHOWN)}"


def _match_whole(
    names: Sequence[bytes], root: bytes, paths: Sequence[bytes], *, kind: str, shown: Sequence[bytes]
) -> list[int]:
    """Return the input that each whole name fits best, or -1; messages show the paths ``shown``."""
    by_number = kind == "id"
    # First the best path of each key, then the best key of each name: many names and many paths can share a key.
    keys = [list(_keys_of_name(name, by_number)) for name in names]
    best: dict[bytes, _Match] = {key: _NOTHING for of_name in keys for key, _ in of_name}
    deepest = max((key.count(b"/") for key in best), default=0)
    for image, path in enumerate(paths):
        for key, rank in _keys_of_path(path, root, deepest, by_number):
            if key in best:
                best[key] = _better(best[key], (rank, (image,)))
    image_of = [-1] * len(keys)
    ambiguous: dict[int, tuple[int, ...]] = {}
    for position, of_name in enumerate(keys):
        found = [(own + best[key][0], best[key][1]) for key, own in of_name if best[key][1]]
        _, images = reduce(_better, found, _NOTHING)
        if len(images) > 1:
            ambiguous[position] = images
        elif images:
            image_of[position] = images[0]
    if ambiguous:
        (position, images), *others = ambiguous.items()
        could = " or ".join(_show(shown[image]) for image in images)
        more = ""
        if others:
            more = f"{counted(len(others), 'other name is', 'other names are')} ambiguous, too"
            more = f" ({more}: {first_few((_show(names[i]) for i, _ in others), _SHOWN)})"
        raise BoxError(
            f"the image name {_show(names[position])} could mean {could}{more}; give more of its path"
        )
    return image_of


def _better(one: _Match, other: _Match) -> _Match:
    """Return the match of higher rank; matches of the same rank are joined."""
    if one[0] != other[0]:
        return max(one, other)
    return one[0], tuple(dict.fromkeys(one[1] + other[1]))[:2]


def _keys_of_name(name: bytes, by_number: bool) -> Iterator[tuple[bytes, int]]:
    """Yield the keys of a name with their ranks: the name itself is best, then the stripped one."""
    stripped = name.strip()
    ranks = {stripped: 0, name: 4}  # mostly equal; the last one ranks highest and counts
    for form, rank in ranks.items():
        clean = _clean(form)
        yield clean, rank
        if not has_image_suffix(clean):
            yield clean + _STEM, rank
    folder, last = posixpath.split(_clean(stripped))
    if by_number and _number(last) != last:
        yield posixpath.join(folder, _number(last)) + _STEM, 0


class _Ends:
    """The inputs by the ends of their paths, with and without suffixes."""

    def __init__(self, names: Iterable[bytes], root: bytes, paths: Sequence[bytes]) -> None:
        absolute = [posixpath.join(root, path) for path in paths]
        self._deepest = max(path.count(b"/") for path in absolute)
        self._images: dict[bytes, tuple[int, ...]] = {
            key: () for name in names for _, _, key in self._keys(name)
        }
        for image, path in enumerate(absolute):
            for _, end in _ends(path, self._deepest):
                self._add(end, image)
                if has_image_suffix(end):
                    self._add(os.path.splitext(end)[0] + _STEM, image)

    def longest(self, name: bytes) -> tuple[NameRule, int, tuple[int, ...]]:
        """Return the rule that fits a name, the number of equal parts at its end, and the first inputs that fit."""
        for rule, n_parts, key in self._keys(name):
            if images := self._images[key]:
                is_alone = n_parts == 1 and rule == NameRule.TAIL
                return NameRule.FILE_NAME if is_alone else rule, n_parts, images
        return NameRule.WHOLE, 0, ()

    def _keys(self, name: bytes) -> Iterator[tuple[NameRule, int, bytes]]:
        """Yield the keys of the ends of a name, the best one first."""
        ends = list(_ends(name, self._deepest))[::-1]
        for n_parts, end in ends:
            yield NameRule.TAIL, n_parts, end
            if not has_image_suffix(end):
                yield NameRule.TAIL, n_parts, end + _STEM
        if has_image_suffix(name):
            for n_parts, end in ends:
                yield NameRule.STEM, n_parts, os.path.splitext(end)[0] + _STEM

    def _add(self, key: bytes, image: int) -> None:
        images = self._images.get(key)
        if images is not None and len(images) < _SHOWN:
            self._images[key] = (*images, image)


def _ends(path: bytes, deepest: int) -> Iterator[tuple[int, bytes]]:
    """Yield the ends of a path of 1 to ``deepest`` parts."""
    start = len(path)
    for n_parts in range(1, deepest + 1):
        start = path.rfind(b"/", 0, start)
        yield n_parts, path[start + 1 :]
        if start <= 0:
            break


def _stem_of(name: bytes) -> bytes:
    """Return the last part of a name without its image suffix."""
    last = posixpath.basename(name)
    return os.path.splitext(last)[0] if has_image_suffix(last) else last


def _find_rivals(found: dict[int, _Found], names: Sequence[bytes]) -> list[int]:
    """Return the names that match by their ends, though another name fits the same input as well or better."""
    weak = {match.image for match in found.values() if match.rule >= NameRule.TAIL}
    rivals: dict[int, dict[bytes, list[int]]] = {image: {} for image in weak}
    for position, match in found.items():
        if match.image in weak:
            rivals[match.image].setdefault(_plain_spelling(names[position]), []).append(position)
    left_out: list[int] = []
    for by_name in rivals.values():
        strengths = {name: min(found[i].strength for i in own) for name, own in by_name.items()}
        best = min(strengths.values())
        is_clear = best[0] < NameRule.TAIL or list(strengths.values()).count(best) == 1
        for name, own in by_name.items():
            if strengths[name][0] >= NameRule.TAIL and not (is_clear and strengths[name] == best):
                left_out += own
    return left_out


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
        for _, end in _ends(absolute, deepest + 1):
            if end != relative:
                yield end + mark, bonus + 1


def _clean(name: bytes) -> bytes:
    """Normalize a name for comparison, without leading ``../``."""
    normal = posixpath.normpath(name)
    if normal.startswith(b"//"):  # POSIX does not define its meaning, and normpath keeps it
        normal = normal[1:]
    return _UP.sub(b"", normal, count=1)


def _number(stem: bytes) -> bytes:
    match = _NUMBERED.fullmatch(stem)
    return match[1] if match else stem


def _show(name: bytes) -> str:
    text = os.fsdecode(name)
    return repr(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
