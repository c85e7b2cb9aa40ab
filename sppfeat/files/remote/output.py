"""Outputs with a URL: written and continued on this machine, and uploaded when complete."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sppfeat.config.machine import user_cache_folder
from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError, SourceError, StoreError
from sppfeat.files.outputs import (
    OutputLock,
    layout_of,
    put_in_place,
    remove_leftovers,
    replace_file,
    replacement_of,
    written_aside,
)
from sppfeat.files.places import FileVersion, object_digest
from sppfeat.files.remote import check_url, shown, url_of
from sppfeat.files.remote.objects import watched
from sppfeat.files.remote.service import FailureKind, Pause, Service, judge, retried

__all__ = ["LocalOutput", "local_output"]

# Objects of these schemes appear only once they are complete.
_ATOMIC_SCHEMES = ("abfs", "abfss", "adl", "az", "gcs", "gs", "hf", "oss", "s3", "s3a")
_PARTS_AT_ONCE = 4


class LocalOutput:
    """The local file of an unfinished output, its URL if it will be uploaded, and notes for the user."""

    def __init__(self, path: Path, url: str | None = None) -> None:
        self.path = path
        self.url = url
        self.notes: list[str] = []

    def publish(self) -> None:
        """Upload the complete file to its URL and remove the local one; an unchanged file is not uploaded again.

        Raises SourceError if that fails, and StoreError if another writer has written to the URL in the meantime. The
        local file then stays, and the same command uploads it.
        """


@contextlib.contextmanager
def local_output(
    output: StrPath,
    *,
    scratch: StrPath | None = None,
    overwrite: bool = False,
    continues: bool = True,
    dry_run: bool = False,
) -> Iterator[LocalOutput]:
    """Provide a local path for an output; the caller publishes it when it is complete.

    An unpublished file stays on this machine, to be continued. A path that is not a URL is yielded unchanged.

    Args:
        scratch: the folder for files that will be uploaded; None for ``sppfeat/uploads`` in the user's cache folder.
        overwrite: True to replace an object at the URL.
        continues: True to fetch and continue an existing output. False to refuse it and to remove the files of an
            interrupted run.
        dry_run: True to write nothing and fetch nothing.

    Raises:
        ConfigError: this kind of URL cannot be written to.
        SourceError: the service cannot be reached, or refuses.
        StoreError: an object exists that must not be replaced, or another process is writing the output.
    """
    text = url_of(output)
    if text is None:
        yield LocalOutput(Path(output))
        return
    url = check_url(text)
    service = Service(url)
    path = _scratch_path(url, scratch)
    if dry_run:
        _ = service.fs  # reports a missing package
        yield LocalOutput(path, url)
        return
    local = _Upload(path, url, service)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with OutputLock(path.with_name(f"{path.name}.upload")):
        local.make_ready(overwrite=overwrite, continues=continues)
        try:
            yield local
        finally:
            local.remove_unchanged()


class _Upload(LocalOutput):
    """An output that will be uploaded; raises the errors of :func:`local_output`."""

    def __init__(self, path: Path, url: str, service: Service) -> None:
        super().__init__(path, url)
        self._service = service
        self._where, self._target = shown(url), service.path(url)
        self._check_writable(url)
        self._found = self._version()  # digest of the object at the URL when the run began
        self._fetched: FileVersion | None = None
        self._overwrites = False
        self._record = path.with_name(f"{path.name}.remote.json")  # keeps the digest of an interrupted run

    def make_ready(self, *, overwrite: bool, continues: bool) -> None:
        """Prepare the scratch folder so that a run finds the same files as next to a local output."""
        path, where, found = self.path, self._where, self._found
        self._overwrites = overwrite and continues
        if found is not None and not overwrite and not continues:
            raise StoreError(f"{where} exists; add --overwrite to replace it")
        if not continues:
            self._remove()
        if _is_placeholder(path) and not (overwrite and found):
            path.unlink()
        if path.exists() and not _is_placeholder(path):
            if found is not None and not overwrite and self._began_with() != found:
                raise StoreError(
                    f"{where} was written by another process since the run that left {str(path)!r} was interrupted; "
                    "replace it with --overwrite, or remove that local file to continue the one at the URL"
                )
            self.notes.append(f"continuing {str(path)!r}; it will be uploaded to {where} when it is complete")
        elif found is None:
            self.notes.append(f"writing {str(path)!r}; it will be uploaded to {where} when it is complete")
        elif self._overwrites:
            # As for a local output, the new file grows next to the old one, here next to an empty placeholder, and
            # is continued there.
            path.touch()
            self.notes.append(f"{where} exists and will be replaced; writing {str(replacement_of(path))!r}")
        elif not overwrite:
            self.notes.append(f"{where} exists: downloading it to continue it")
            with written_aside(path, layout_of(path)) as layout:
                with self._errors("read"):
                    self._service.ask("get_file", self._target, str(layout))
                self._check_unchanged()
            self._fetched = FileVersion.of(path)
        replace_file(self._record, json.dumps({"url": self.url, "found": found}).encode())

    def publish(self) -> None:
        if not self._is_unchanged():
            file = self.path
            if self._overwrites:  # renamed to the only file that --overwrite continues
                file = replacement_of(self.path)
                put_in_place(self.path, file)
                self.path.touch()
            try:
                self._check_unchanged()
                self._upload(file)
            except (SourceError, StoreError) as error:
                raise type(error)(
                    f"{error}; the complete file is {str(file)!r}; repeat the command to upload it"
                ) from error
        self._remove()

    def remove_unchanged(self) -> None:
        """Remove the file if it was fetched and has not changed."""
        if self._fetched is not None and self._is_unchanged():
            self._remove()

    def _upload(self, file: Path) -> None:
        """Upload a file; the object there stays until the new one is complete."""
        fs, size = self._service.fs, os.stat(file).st_size
        is_atomic = self._service.scheme in _ATOMIC_SCHEMES
        target = self._target if is_atomic else f"{self._target}.sppfeat-part"
        options = {"max_concurrency": _PARTS_AT_ONCE} if self._service.is_s3 else {}

        def put(pause: Pause) -> None:
            callback = watched(lambda *_: pause(0))
            retried(partial(fs.put_file, str(file), target, callback=callback, **options), pause=pause)

        with self._errors("write"):
            self._service.run([put])
            if not is_atomic:
                fs.mv(target, self._target)
            found = self._service.ask("info", self._target).get("size")
        if found not in (None, size):
            raise SourceError(f"cannot write {self._where}: only {found} of {size} bytes arrived")

    def _version(self) -> str | None:
        """Return a digest that changes with the object's content; None without an object."""
        with self._errors("look for"):
            try:
                found = self._service.ask("info", self._target)
            except Exception as error:
                if judge(error)[0] is FailureKind.MISSING:
                    return None
                raise
        if found["type"] == "directory":
            raise StoreError(
                f"the output {self._where} is a folder; give a file name such as 'features.h5' in it"
            )
        return object_digest(found)

    def _check_unchanged(self) -> None:
        if self._version() != self._found:
            raise StoreError(f"{self._where} was written by another process since this run began")

    def _check_writable(self, url: str) -> None:
        """Check that the object can be written, as far as possible without writing it."""
        service, where = self._service, self._where
        if service.scheme in ("http", "https"):
            raise ConfigError(f"{where} is read-only; allowed: an object store, such as s3://")
        if not service.is_s3:
            return
        bucket, key = service.s3_bucket_and_key(url)
        if not key:
            raise ConfigError(f"the output {where} is a bucket; give an object in it, such as '/features.h5'")
        target = {"Bucket": bucket, "Key": key}
        with self._errors("write"):
            begun = service.ask("call_s3", "create_multipart_upload", **target)
            service.ask("call_s3", "abort_multipart_upload", **target, UploadId=begun["UploadId"])

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(f"cannot {verb} {self._where}: {judge(error)[1]}") from error

    def _is_unchanged(self) -> bool:
        """Return True if the file has not changed since it was fetched, or is still missing."""
        try:
            now = FileVersion.of(self.path)
        except OSError:
            return self._fetched is None
        return self._fetched is not None and now.is_file_of(self._fetched)

    def _began_with(self) -> str | None:
        """Return the digest of the object at the URL when the file was begun; empty if unknown."""
        try:
            return str(found) if (found := json.loads(self._record.read_bytes())["found"]) else None
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _remove(self) -> None:
        """Remove the files of the scratch folder."""
        remove_leftovers(self.path)
        for left in (self.path, replacement_of(self.path), self._record):
            left.unlink(missing_ok=True)


def _scratch_path(url: str, scratch: StrPath | None) -> Path:
    if scratch is None:
        scratch = (user_cache_folder() or Path(tempfile.gettempdir(), "sppfeat")) / "uploads"
    name = os.fsdecode(os.fsencode(url.rpartition("/")[2])[-100:])
    return Path(scratch) / f"{hashlib.sha256(os.fsencode(url)).hexdigest()[:16]}-{name}"


def _is_placeholder(path: Path) -> bool:
    return path.exists() and path.stat().st_size == 0
