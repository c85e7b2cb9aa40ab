"""Outputs with a URL, which are made on this machine, can be continued there, and are uploaded when complete."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sppfeat.config.values import StrPath
from sppfeat.errors import SourceError, StoreError
from sppfeat.files.atomic import put_in_place, replace_file, written_aside
from sppfeat.files.locks import OutputLock
from sppfeat.files.outputs import layout_of, remove_leftovers, replacement_of
from sppfeat.files.remote import check_url, shown, url_of
from sppfeat.files.remote.service import Service
from sppfeat.files.remote.uploads import check_writable, download, upload, version_of
from sppfeat.files.versions import FileVersion

__all__ = ["LocalOutput", "local_output"]


@dataclass
class LocalOutput:
    """The local file of an output while it is being made.

    Attributes:
        path: path of the file.
        url: URL that it will be uploaded to; None for an output that stays on this machine.
        notes: remarks for the user.
    """

    path: Path
    url: str | None = None
    notes: list[str] = field(default_factory=list)
    _service: Service | None = None
    _found: str | None = None
    _fetched: FileVersion | None = None
    _overwrites: bool = False

    def publish(self) -> None:
        """Upload the complete file and remove the local one; an unchanged file is not uploaded again.

        An output without a URL is left as it is.

        Raises:
            SourceError: the file cannot be uploaded; it stays here, and running the same command again uploads it.
            StoreError: another writer has written to the URL in the meantime.
        """
        if self._service is None or self.url is None:
            return
        if not _is_version(self.path, self._fetched):
            file = self._set_aside() if self._overwrites else self.path
            try:
                self._check_unchanged(self._service, self.url)
                upload(self._service, file, self.url)
            except (SourceError, StoreError) as error:
                raise type(error)(
                    f"{error}; the file is complete in {str(file)!r}: the same command again uploads it"
                ) from error
        _remove(self.path)

    def _set_aside(self) -> Path:
        """Rename the complete file to the name of a replacement, the only file that --overwrite continues."""
        file = replacement_of(self.path)
        put_in_place(self.path, file)
        self.path.touch()
        return file

    def _check_unchanged(self, service: Service, url: str) -> None:
        if version_of(service, url) != self._found:
            raise StoreError(f"{shown(url)} was written by somebody else since this was begun")


@contextlib.contextmanager
def local_output(
    output: StrPath,
    *,
    scratch: StrPath | None = None,
    overwrite: bool = False,
    continues: bool = True,
    dry_run: bool = False,
) -> Iterator[LocalOutput]:
    """Provide a local path for an output, which the caller publishes when it is complete.

    A file that is not published stays on this machine, to be continued.

    Args:
        output: a URL, or a path, which is yielded as it is.
        scratch: the folder for files that will be uploaded; None for ``sppfeat/uploads`` in the user's cache folder.
        overwrite: True to replace an object at the URL.
        continues: True to fetch and continue an existing output. False to refuse it and to remove the files of an
            interrupted run.
        dry_run: True to write nothing and fetch nothing.

    Yields:
        The output, with its local path.

    Raises:
        ConfigError: this kind of URL cannot be written to.
        SourceError: the service cannot be reached, or refuses.
        StoreError: there is an object that must not be replaced, or another process is making the output.
    """
    text = url_of(output)
    if text is None:
        yield LocalOutput(Path(output))
        return
    url = check_url(text)
    service = Service(url)
    service.connect()
    path = _scratch_path(url, scratch)
    if dry_run:
        yield LocalOutput(path, url)
        return
    check_writable(service, url)
    found = version_of(service, url)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with OutputLock(path.with_name(f"{path.name}.upload")):
        local = LocalOutput(path, url, _service=service, _found=found, _overwrites=overwrite and continues)
        _make_ready(local, overwrite=overwrite, continues=continues)
        try:
            yield local
        finally:
            if local._fetched is not None and _is_version(path, local._fetched):
                _remove(path)  # unchanged since it was fetched


def _make_ready(local: LocalOutput, *, overwrite: bool, continues: bool) -> None:
    """Prepare the scratch folder so that a run finds the same files as next to a local output."""
    path, where = local.path, shown(str(local.url))
    if local._found is not None and not overwrite and not continues:
        raise StoreError(f"{where} exists; --overwrite replaces it")
    if not continues:
        _remove(path)
    if _is_placeholder(path) and not (overwrite and local._found):
        path.unlink()
    if path.exists() and not _is_placeholder(path):
        if local._found is not None and not overwrite and _began_with(path) != local._found:
            raise StoreError(
                f"{where} was written by somebody else since the run was interrupted that {str(path)!r} is of; "
                "--overwrite replaces it, and without that file it is continued"
            )
        local.notes.append(f"continues {str(path)!r}, which will be uploaded to {where} when it is complete")
    elif local._found is None:
        local.notes.append(f"{where} is made in {str(path)!r}, and uploaded when it is complete")
    elif overwrite and continues:
        # As for a local output, the new file grows next to the old one, here next to an empty placeholder, and is
        # continued there.
        path.touch()
        local.notes.append(f"{where} exists and will be replaced; made in {str(replacement_of(path))!r}")
    elif not overwrite:
        local.notes.append(f"{where} exists: it is fetched, to be continued")
        _fetch(local)
    replace_file(_record_of(path), json.dumps({"url": local.url, "found": local._found}).encode())


def _fetch(local: LocalOutput) -> None:
    """Fetch the output from its URL."""
    service, url = local._service, str(local.url)
    if service is None:
        raise ValueError("not a remote output")
    with written_aside(local.path, layout_of(local.path)) as layout:
        download(service, url, layout)
        local._check_unchanged(service, url)
    local._fetched = FileVersion.of(local.path)


def _scratch_path(url: str, scratch: StrPath | None) -> Path:
    if scratch is None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        scratch = os.path.join(cache, "sppfeat", "uploads")
    name = os.fsencode(url.rpartition("/")[2])[-100:]
    return Path(scratch) / os.fsdecode(
        hashlib.sha256(os.fsencode(url)).hexdigest()[:16].encode() + b"-" + name
    )


def _record_of(path: Path) -> Path:
    """Return the path of the record about the object that was at the URL when a run began."""
    return path.with_name(f"{path.name}.remote.json")


def _began_with(path: Path) -> str | None:
    """Return the digest of the object that was at the URL when a file was begun; empty if unknown."""
    try:
        return str(found) if (found := json.loads(_record_of(path).read_bytes())["found"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _is_placeholder(path: Path) -> bool:
    return path.exists() and path.stat().st_size == 0


def _is_version(path: Path, version: FileVersion | None) -> bool:
    """Return True if a file still has a version; with None, if it is still missing."""
    try:
        found = FileVersion.of(path)
    except OSError:
        return version is None
    return version is not None and found.is_file_of(version)


def _remove(path: Path) -> None:
    """Remove a file of the scratch folder and the temporary files next to it."""
    remove_leftovers(path)
    for left in (path, replacement_of(path), _record_of(path)):
        left.unlink(missing_ok=True)
