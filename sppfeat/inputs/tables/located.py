"""Finds the files that a table names in another spelling, or by the paths of another machine."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from sppfeat.config.wording import one_line
from sppfeat.errors import BoxError, ConfigError
from sppfeat.files.image_names import (
    NameRule,
    has_image_suffix,
    match_images,
    normalize_name,
    note_on_rule,
)
from sppfeat.files.paths import FolderWalk, PathTable
from sppfeat.files.tables import TableFile
from sppfeat.inputs.names import below, is_below, make_absolute

__all__ = ["locate_files"]

_MOST_SEARCHED = 1 << 20  # images below the folder of a table


def locate_files(table: TableFile, named: PathTable) -> tuple[PathTable, list[str]]:
    r"""Find the files of a table; return their absolute paths, and notes for the user.

    A missing file is searched for after Unicode normalization of each part of its path, and with ``\`
    read as ``/``. If its folder is missing, too, it matches the only image below the folder of the table that shares
    the longest end of its path, as in :func:`sppfeat.files.image_names.match_images`. Mere file names match this way
    only if no file of the table is found otherwise. A file that is still missing keeps its path.

    Args:
        table: the table.
        named: absolute paths of the files, in the order of the rows.

    Raises:
        ConfigError: a file name alone fits several images.
    """
    missing = [i for i, path in enumerate(named) if not os.path.lexists(path)]
    if not missing:
        return named, []
    found: dict[int, bytes] = {}
    notes: list[str] = []
    spelling = _Spelling()
    for rule in (NameRule.NORMALIZED, NameRule.SEPARATORS):
        new: dict[int, bytes] = {}
        for i in (i for i in missing if i not in found):
            path = named[i] if rule == NameRule.NORMALIZED else _with_slashes(named[i], table.folder)
            if (rule == NameRule.NORMALIZED or path != named[i]) and (other := spelling.find(path)):
                new[i] = other
        if new:
            given = [_short(named[i], table.folder) for i in new]
            notes.append(note_on_rule(rule, given, _short(next(iter(new.values())), table.folder)))
        found |= new
    paths = {i: _with_slashes(named[i], table.folder) for i in missing if i not in found}
    folders = {os.path.dirname(path) for path in paths.values()}
    absent = {folder for folder in folders if not os.path.isdir(folder)}
    if len(paths) == len(named):
        absent.add(table.folder)
    moved = {i: path for i, path in paths.items() if os.path.dirname(path) in absent}
    if moved:
        there = [found.get(i, path) for i, path in enumerate(named) if i not in paths]
        by_end, notes_on_ends = _find_by_ends(table, moved, there)
        found |= by_end
        notes += notes_on_ends
    if len(missing) == len(named) and not found:
        notes.append(
            f"none of its files exists ({len(named)}), such as {one_line(repr(os.fsdecode(named[0])))}; paths are "
            "relative to the folder of the table: move the table there, or correct its paths"
        )
    shown = repr(os.fsdecode(os.path.basename(table.path)))
    located = PathTable(found.get(i, path) for i, path in enumerate(named)) if found else named
    return located, [f"{shown}: {note}" for note in notes]


class _Spelling:
    """Finds files whose names differ by Unicode normalization; remembers the folders."""

    def __init__(self) -> None:
        self._folders: dict[bytes, bytes | None] = {b"/": b"/"}
        self._names: dict[bytes, Mapping[bytes, Sequence[bytes]]] = {}

    def find(self, path: bytes) -> bytes | None:
        """Return the only file that a normalized absolute path could mean; None for none or several."""
        ends = [i for i, byte in enumerate(path) if byte == ord("/")][1:]
        folder: bytes | None = b"/"
        for end in ends:
            above = path[:end]
            if above not in self._folders:
                self._folders[above] = self._entry(folder, os.path.basename(above)) if folder else None
            folder = self._folders[above]
        return self._entry(folder, os.path.basename(path)) if folder else None

    def _entry(self, folder: bytes, name: bytes) -> bytes | None:
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            return path
        if name.isascii():
            return None
        same = self._listed(folder).get(normalize_name(name), ())
        return os.path.join(folder, same[0]) if len(same) == 1 else None

    def _listed(self, folder: bytes) -> Mapping[bytes, Sequence[bytes]]:
        if folder not in self._names:
            names: dict[bytes, list[bytes]] = {}
            try:
                for name in os.listdir(folder):
                    if not name.isascii():
                        names.setdefault(normalize_name(name), []).append(name)
            except OSError:  # not a folder, for example
                names = {}
            self._names[folder] = names
        return self._names[folder]


def _with_slashes(path: bytes, folder: bytes) -> bytes:
    r"""Return a path of a table with each ``\`` read as ``/``; a path on a Windows drive is not below the table."""
    if b"\\" not in path:
        return path
    given = _short(path, folder).replace(b"\\", b"/")
    is_absolute = given[:1] == b"/" or given[1:2] == b":"
    return make_absolute(b"/" + given if is_absolute else os.path.join(folder, given))


def _short(path: bytes, folder: bytes) -> bytes:
    """Return a path relative to a folder if it is below it."""
    return below(path, folder) if is_below(path, folder) and path != folder else path


def _find_by_ends(
    table: TableFile, moved: Mapping[int, bytes], there: Sequence[bytes]
) -> tuple[dict[int, bytes], list[str]]:
    """Find missing files by the ends of their paths, among the other images below the folder of a table."""
    try:
        images = list(islice(_images_below(table.folder), _MOST_SEARCHED + 1))
    except ConfigError as error:
        return {}, [f"missing files were not searched for: {error}"]
    if len(images) > _MOST_SEARCHED:
        return {}, [f"missing files were not searched for among more than {_MOST_SEARCHED} images"]
    names = [*(_short(path, table.folder) for path in moved.values()), *there]
    try:
        image_of, notes = match_images(names, table.folder, images)
    except BoxError as error:
        raise table.error("", str(error)) from error
    matched = zip(moved, image_of[: len(moved)].tolist(), strict=True)
    return {i: os.path.join(table.folder, images[image]) for i, image in matched if image >= 0}, list(notes)


def _images_below(folder: bytes) -> Iterator[bytes]:
    def error(name: bytes, what: str) -> ConfigError:
        return ConfigError(f"{os.fsdecode(os.path.join(folder, name))!r} {what}")

    return iter(FolderWalk(folder, has_image_suffix, error=error))
