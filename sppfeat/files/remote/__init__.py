"""Lists, fetches, reads and writes objects in object stores and on servers, through fsspec.

URLs go in; names and sizes of objects, local copies, and uploaded outputs come out. This module only recognizes and
checks URLs and formats them for messages; the submodules import fsspec when they connect. The package must not know
what the objects hold.
"""

import os
import re

from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError

__all__ = ["check_url", "shown", "url_of"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+]+):(/{1,3})(?=[^/])")
_HAS_PASSWORD = re.compile(r"[^/]*:[^/]*@")  # matched after the scheme
_WEB_SCHEMES = ("http", "https")
_LOCAL_SCHEMES = ("file", "local")


def url_of(output: StrPath) -> str | None:
    """Return the URL of an output, with the slash restored that ``Path`` drops; None if the output is a path.

    Example:
        >>> from pathlib import Path
        >>> url_of(Path("s3://bucket/features.h5")), url_of("features.h5")
        ('s3://bucket/features.h5', None)
    """
    text = os.fspath(output)
    found = _URL.match(text)
    if found is None:
        return None
    scheme, slashes = found.groups()
    if slashes == "/":
        slashes = "///" if scheme in _LOCAL_SCHEMES else "//"
    return f"{scheme}:{slashes}{text[found.end() :]}"


def check_url(url: str) -> str:
    """Return a URL with its scheme in lower case and without trailing slashes, checked to hold no secret.

    The output and messages contain it. ConfigError is raised if it has a password, a query, nothing after the scheme,
    or a path with empty parts or dots.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if _HAS_PASSWORD.match(rest):
        raise ConfigError(
            f"the URL {shown(url)} has a password, which would be written into the output; put "
            "credentials where fsspec looks for them: in the environment or in ~/.config/fsspec"
        )
    if scheme in _WEB_SCHEMES and re.search("[?#]", rest):
        raise ConfigError(
            f"the URL {shown(url)} has a query or a fragment, which may be secret and would be written into the "
            "output; allowed: a URL without"
        )
    path = rest.rstrip("/")
    parts = path.removeprefix("/").split("/")
    if path and any(part in ("", ".", "..") for part in parts):
        raise ConfigError(
            f"the URL {shown(url)} has empty parts, '.' or '..' in its path; allowed: none of these"
        )
    if not path:
        raise ConfigError(
            f"the URL {shown(url)} names no object; allowed: a URL such as 's3://bucket/folder'"
        )
    return f"{scheme}://{path}"


def shown(url: str) -> str:
    """Return a URL for a message: quoted, without password and query, which may be secret."""
    scheme, separator, rest = url.partition("://")
    if _HAS_PASSWORD.match(rest):
        rest = f"...@{rest[rest.rindex('@') + 1 :]}"
    if scheme.lower() in _WEB_SCHEMES:
        rest = re.sub("[?#].*", "?...", rest, flags=re.DOTALL)
    return repr(scheme + separator + rest)
