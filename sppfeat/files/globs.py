"""Chooses files by their paths: skips system folders, and applies the patterns of --exclude and --include."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence

from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError

__all__ = ["PathFilter", "find_system_folder"]

# Thumbnails, recycle bins and snapshots of network drives; folders that Windows, macOS and Linux create on any drive;
# copies that Jupyter keeps. Nobody stores images there.
_SYSTEM_FOLDERS = (
    r"@eadir|#recycle|@recycle|#snapshot|@recently-snapshot|@tmp|\.?@__thumb|@transcode|~snapshot|\.snapshots?|\.zfs|"
    r"\$recycle\.bin|system volume information|found\.[0-9]{3}|"
    r"__macosx|\.trashes|\.spotlight-v100|\.fseventsd|\.temporaryitems|\.documentrevisions-v100|\.appledouble|"
    r"network trash folder|temporary items|"
    r"lost\+found|\.trash(?:-[^/]*)?|\.thumbnails|\.ipynb_checkpoints"
)
_SYSTEM_FOLDER = re.compile(rf"(?:[^/]*/)*?(?:{_SYSTEM_FOLDERS})(?=/)".encode(), re.IGNORECASE)


def find_system_folder(path: bytes) -> bytes | None:
    """Return the topmost folder of a relative path that a system or a network drive created; None without one.

    Example:
        >>> find_system_folder(b"ant/@eaDir/1.jpg/THUMB_M.jpg"), find_system_folder(b"ant/1.jpg")
        (b'ant/@eaDir', None)
    """
    found = _SYSTEM_FOLDER.match(path)
    return found[0] if found else None


class PathFilter:
    """Chooses files by their paths relative to an input, by patterns as in a .gitignore file.

    ``*``, ``?`` and ``[...]`` do not match a slash; ``**/`` matches any folders. A pattern without a slash is compared
    with the file name and the name of each folder above it, any other one with the path from its start. A pattern
    that matches a folder covers everything in it; one that ends in a slash matches only folders.
    ``leaves_out_some`` is True once a path has been left out.

    Args:
        exclude: patterns of files to leave out.
        include: patterns; each file has to match one of them; empty for all files.

    Raises:
        ConfigError: a pattern is empty or invalid.

    Example:
        >>> paths = PathFilter(["thumbs", "*.png"], ["cat/**"])
        >>> [paths.takes(path) for path in (b"cat/1.jpg", b"cat/1.png", b"cat/thumbs/1.jpg", b"dog/1.jpg")]
        [True, False, False, False]
    """

    def __init__(self, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> None:
        self._exclude = {f"--exclude {text!r}": _compile("--exclude", text) for text in exclude}
        self._include = {f"--include {text!r}": _compile("--include", text) for text in include}
        self._used: set[str] = set()
        self._example: bytes | None = None  # the first file that was compared, or the first folder
        self.leaves_out_some = False

    def __bool__(self) -> bool:
        return bool(self._exclude or self._include)

    def excludes(self, path: bytes) -> bool:
        """Return True if a pattern leaves out a path relative to the input; that of a folder ends in a slash."""
        is_excluded = bool(self._exclude) and self._matches(self._exclude, path)
        self.leaves_out_some |= is_excluded
        return is_excluded

    def takes(self, path: bytes) -> bool:
        """Return True if the patterns choose a file."""
        if self.excludes(path):
            return False
        is_included = not self._include or self._matches(self._include, path)
        self.leaves_out_some |= not is_included
        return is_included

    def _matches(self, patterns: Mapping[str, re.Pattern[str]], path: bytes) -> bool:
        if self._example is None or (self._example.endswith(b"/") and not path.endswith(b"/")):
            self._example = path
        name = unicodedata.normalize("NFC", os.fsdecode(path))
        # Compare all of them, to learn which ones match something.
        found = {option for option, pattern in patterns.items() if pattern.match(name)}
        self._used |= found
        return bool(found)

    def unused(self) -> list[str]:
        """Return the patterns that have matched nothing yet, each with its option."""
        return [option for option in (*self._exclude, *self._include) if option not in self._used]

    def __str__(self) -> str:
        """Return the patterns with their options, for a message."""
        return " ".join([*self._exclude, *self._include])

    @property
    def rule(self) -> str:
        """The rule by which patterns are compared, for a message, with an example path."""
        example = f", such as {one_line(repr(os.fsdecode(self._example)))}" if self._example else ""
        return f"patterns are compared with paths below the input{example}"


def _compile(option: str, text: str) -> re.Pattern[str]:
    pattern = unicodedata.normalize("NFC", text).removeprefix("./")
    body = pattern.strip("/")
    if not body or "\0" in body:
        raise ConfigError(
            f"{option} is {text!r}; allowed: a pattern such as 'thumbs', '*.png' or 'cat/**/*.jpg'"
        )
    is_anywhere = "/" not in pattern.removesuffix("/")
    try:
        return re.compile(
            ("(?:.*/)?" if is_anywhere else "")
            + re.sub(
                r"\*\*/|/\*\*\Z|\\.|\[[!^]?\]?[^\]/]*\]|[*?]|[^*?\[\\]+|.", _translate, body, flags=re.DOTALL
            )
            + ("/" if pattern.endswith("/") else r"(?:/|\Z)"),
            re.DOTALL,
        )
    except re.error as error:
        raise ConfigError(f"{option} is {text!r}, which is not a valid pattern: {error}") from error


def _translate(match: re.Match[str]) -> str:
    """Translate a token of a pattern to a regular expression."""
    token = match[0]
    known = {"**/": "(?:.*/)?", "/**": "/.+", "*": "[^/]*", "?": "[^/]"}
    if token in known:
        return known[token]
    if token.startswith("[") and len(token) > 2:
        is_negated = token[1] in "!^"
        chosen = re.sub(r"[\\\[\]&~|^]", r"\\\g<0>", token[2 if is_negated else 1 : -1])
        return f"[{'^/' if is_negated else ''}{chosen}]"
    return re.escape(token[1:] if token.startswith("\\") and len(token) > 1 else token)
