"""Downloads files with a known checksum: either the complete, correct file arrives, or none."""

import hashlib
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, TypeAlias

from sppfeat.errors import StoreError, WeightsError
from sppfeat.files.outputs import written_aside

__all__ = ["OnDownload", "download"]

OnDownload: TypeAlias = Callable[[str, int, int | None], None]
"""Progress callback: takes the file's name, the bytes received, and the total (None if unknown)."""

# Time without a byte. torch.hub waits forever, and clusters tend to drop outgoing connections instead of refusing
# them.
_TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 20


def download(
    url: str, path: Path, *, sha256_prefix: str, on_progress: OnDownload = lambda name, done, total: None
) -> str:
    """Download a file, which takes its name once it is complete and its checksum is right; return its SHA-256.

    Until then it is ``<path>.<random>.partial``, so that several processes may fetch it at once; after a failure or
    an interruption it is removed. An existing file at ``path`` stays until it is replaced. Creates the folder.
    ``on_progress`` is called when the server has answered, after each piece, and at the end with a known total.

    Raises:
        WeightsError: the file cannot be fetched or written, is cut off, or has another checksum.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path, unfinished):
            with open(unfinished, "xb") as file:
                sha256 = _copy(url, file, partial(on_progress, path.name))
            if not sha256.startswith(sha256_prefix):
                raise OSError(
                    f"the downloaded file has SHA-256 {sha256}; expected: one that begins with {sha256_prefix}"
                )
    except (OSError, HTTPException, StoreError) as error:
        raise WeightsError(f"cannot download {url} to {str(path)!r}: {_reason(error)}") from error
    return sha256


def _copy(url: str, file: BinaryIO, on_progress: Callable[[int, int | None], None]) -> str:
    """Copy the content of a URL into a file; return its SHA-256."""
    request = urllib.request.Request(url, headers={"User-Agent": "sppfeat"})
    digest, n_bytes = hashlib.sha256(), 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        on_progress(0, total)
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            n_bytes += len(chunk)
            on_progress(n_bytes, total)
    if total is not None and n_bytes != total:
        raise OSError(f"the transfer ended after {n_bytes} of {total} bytes")
    if total is None:
        on_progress(n_bytes, n_bytes)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """Return the reason of a failure in one line."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server says {error.code} {error.reason}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(reason).split()) or type(reason).__name__
