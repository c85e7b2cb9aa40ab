"""Object stores and servers, through fsspec: listing, reading, fetching and writing of remote objects.

The package itself recognizes and checks the URLs of inputs and outputs and shows them in messages. It imports no
package for remote access; the submodules do, when they connect.
"""

import os
import re

from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError

__all__ = ["check_url", "shown", "url_of"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+]+):(/{1,3})(?=[^/])")
_HAS_PASSWORD = re.compile(r"[^/]*:[^/]*@")  # of what follows the scheme
_WEB = ("http", "https")
_OF_THIS_MACHINE = ("file", "local")


def url_of(output: StrPath) -> str | None:
    """Return an output's URL, or None if it is a path; a ``Path`` made of a URL has lost one of its slashes.

    Example:
        >>> from pathlib import Path
        >>> url_of("s3://bucket/features.h5"), url_of(Path("s3://bucket/features.h5")), url_of("features.h5")
        ('s3://bucket/features.h5', 's3://bucket/features.h5', None)
    """
    text = os.fspath(output)
    found = _URL.match(text)
    if found is None:
        return None
    scheme, slashes = found.groups()
    if slashes == "/":
        slashes = "///" if scheme in _OF_THIS_MACHINE else "//"
    return f"{scheme}:{slashes}{text[found.end() :]}"


def check_url(url: str) -> str:
    """Return a URL with its scheme in lower case and without slashes at its end.

    It may not hold anything secret, since it is written into the output and shown in messages.

    Raises:
        ConfigError: it has a password, a query, nothing behind the scheme, or a path with empty parts or dots.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if _HAS_PASSWORD.match(rest):
        raise ConfigError(
            f"the URL {shown(url)} has a password, which would be written into the output; allowed: credentials "
            "where fsspec looks for them, in the environment or in ~/.config/fsspec"
        )
    if scheme in _WEB and re.search("[?#]", rest):
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
        raise ConfigError(f"the URL {shown(url)} names nothing; allowed: such as 's3://bucket/folder'")
    return f"{scheme}://{path}"


def shown(url: str) -> str:
    """Return a URL as a message shows it: quoted, without its password and its query, which may be secret."""
    scheme, separator, rest = url.partition("://")
    if _HAS_PASSWORD.match(rest):
        rest = f"...@{rest[rest.rindex('@') + 1 :]}"
    if scheme.lower() in _WEB:
        rest = re.sub("[?#].*", "?...", rest, flags=re.DOTALL)
    return repr(scheme + separator + rest)
