"""Input patterns that the shell did not expand: ``photos/*.jpg``, ``shard-{0000..0099}.tar``."""

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from sppfeat.errors import ConfigError
from sppfeat.files.globs import find_system_folder
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import N_EXAMPLES, PathTable, natural_key
from sppfeat.inputs.names import is_url, kind_of, make_absolute
from sppfeat.inputs.segments import Segment

__all__ = ["expand", "has_braces", "is_pattern"]

_BRACES = re.compile(r"\{(?:([0-9]+)\.\.([0-9]+)|([^{}]*,[^{}]*))\}")
_MOST_TEXTS = 1_000_000


def has_braces(text: str) -> bool:
    """Return True if a text has braces that a shell would expand.

    Example:
        >>> has_braces("shard-{00..12}.tar"), has_braces("a/{x,y}.jpg"), has_braces("{x}.jpg")
        (True, True, False)
    """
    return _BRACES.search(text) is not None


def is_pattern(text: str) -> bool:
    """Return True if a text could match several names."""
    return has_braces(text) or any(mark in text for mark in "*?[")


def expand(pattern: str) -> tuple[list[bytes], Segment]:
    """Expand a pattern; return the absolute paths or URLs that it matches, and a segment of skipped files.

    Alternatives in braces keep their order, other matches are in natural order. Paths below a matching folder are left
    out.

    Raises:
        ConfigError: nothing matches.
    """
    texts = list(itertools.islice(_expand_braces(pattern), _MOST_TEXTS + 1))
    if len(texts) > _MOST_TEXTS:
        raise ConfigError(f"{pattern!r} expands to more than {_MOST_TEXTS} names")
    found, other_files, system_folders = list[bytes](), list[bytes](), dict[bytes, None]()
    for text in texts:
        path = make_absolute(os.fsencode(text))
        if is_url(path) or os.path.lexists(path):
            found.append(path)
            continue
        matches, others, folders = _expand_marks(text)
        found += map(make_absolute, matches)
        other_files += others
        system_folders |= dict.fromkeys(folders)
    return found, Segment(
        None,
        PathTable(()),
        n_other_files=len(other_files),
        other_files=tuple(other_files[:N_EXAMPLES]),
        system_folders=tuple(system_folders),
    )


def _expand_braces(text: str) -> Iterator[str]:
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    first, last, names = match.groups()
    if names is None:
        low, high = int(first), int(last)
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        numbers = range(low, high + 1) if low <= high else range(low, high - 1, -1)
        choices: Iterator[str] = (f"{number:0{width}d}" for number in numbers)
    else:
        choices = iter(names.split(","))
    for choice in choices:
        for rest in _expand_braces(text[match.end() :]):
            yield text[: match.start()] + choice + rest


def _expand_marks(pattern: str) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Expand ``*``, ``?`` and ``[...]``; return the matches, other files, and skipped system folders."""
    fixed = re.split(r"[^/]*[*?\[]", pattern, maxsplit=1)[0]
    matches = glob.glob(os.fsencode(pattern), recursive=True)
    system_folder = {match: find_system_folder(match[len(os.fsencode(fixed)) :] + b"/") for match in matches}
    matches = [match.rstrip(b"/") for match in matches if system_folder[match] is None]
    folders = {match for match in matches if os.path.isdir(match)}
    known = [m for m in matches if m in folders or has_image_suffix(m) or kind_of(m) is not None] or matches
    if not known:
        raise ConfigError(f"no file or folder matches {pattern!r}")
    found = [m for m in known if folders.isdisjoint(map(os.fsencode, Path(os.fsdecode(m)).parents))]
    found.sort(key=lambda match: [*map(natural_key, match.split(b"/"))])
    others = sorted({*matches}.difference(known))
    return found, others, [*filter(None, system_folder.values())]
