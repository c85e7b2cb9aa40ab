"""Absolute paths and URLs, and the common root of all images."""

import os
from collections.abc import Sequence

from sppfeat.errors import ConfigError
from sppfeat.inputs.segments import Segment

__all__ = ["below", "common_root", "is_below", "is_url", "make_absolute"]

_SCHEME = b"://"


def is_url(path: bytes) -> bool:
    """Return True if a name is a URL, such as ``s3://bucket/folder``."""
    scheme, separator, _ = path.partition(_SCHEME)
    return bool(separator) and scheme.replace(b"+", b"").isalnum()


def make_absolute(path: bytes) -> bytes:
    """Make a path absolute, without ``.``, ``..`` and repeated slashes; URLs stay as they are.

    Symbolic links are kept, except before a ``..``, where they are followed.
    """
    if is_url(path):
        return path
    parts = path.split(b"/")
    if b".." in parts:
        # Only the file system knows the parent of a link's target: link/../a.jpg is not ./a.jpg.
        split = len(parts) - parts[::-1].index(b"..")
        path = os.path.join(os.path.realpath(b"/".join(parts[:split])), *parts[split:])
    return b"/" + os.path.abspath(path).lstrip(b"/")


def common_root(segments: Sequence[Segment]) -> bytes:
    """Find the deepest folder or URL above all images.

    Raises:
        ConfigError: local and remote inputs are mixed, or remote ones have no common URL.
    """
    tops: set[bytes] = set()
    for segment in segments:
        if segment.top is None:
            tops |= {os.path.dirname(name) for name in segment.names}
        elif len(segment.names):
            tops.add(segment.above or segment.top)
    schemes = {top.partition(_SCHEME)[0] if is_url(top) else b"" for top in tops}
    if schemes == {b""}:
        return os.path.commonpath(tops)
    if len(schemes) > 1:
        kinds = ", ".join(f"{scheme.decode()}://" if scheme else "this machine" for scheme in sorted(schemes))
        raise ConfigError(
            f"the inputs lie in several places, {kinds}, and have no common root; allowed: one, and an output for each"
        )
    (scheme,) = schemes
    parts = {top.partition(_SCHEME)[2] for top in tops}
    return scheme + _SCHEME + os.path.commonpath(parts)


def below(path: bytes, root: bytes) -> bytes:
    """Return ``path`` relative to a ``root`` above it, 20 times as fast as os.path.relpath."""
    if root.endswith(_SCHEME):
        return path[len(root) :]
    return path[len(root.rstrip(b"/")) + 1 :]


def is_below(path: bytes, root: bytes) -> bool:
    """Return True if ``path`` is ``root`` or below it."""
    return path == root or path.startswith(root if root.endswith(b"/") else root + b"/")
