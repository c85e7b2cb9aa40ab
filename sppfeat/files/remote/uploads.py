"""Atomic uploads of files, and downloads of objects of any size."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from sppfeat.errors import ConfigError, SourceError, StoreError
from sppfeat.files.remote import shown
from sppfeat.files.remote.failures import FailureKind, judge
from sppfeat.files.remote.retries import retried
from sppfeat.files.remote.service import Service, run_jobs
from sppfeat.files.versions import object_digest

__all__ = ["check_writable", "download", "upload", "version_of"]

_PART_BYTES = 16 << 20
_MOST_PARTS = 9000  # S3 allows 10,000
_PARTS_AT_ONCE = 4
_SILENCES_PER_PART = 10  # in units of ``patience.silence``: five minutes for 16 MiB

_ATOMIC_SCHEMES = (
    "abfs",
    "abfss",
    "adl",
    "az",
    "gcs",
    "gs",
    "hf",
    "oss",
    "s3",
    "s3a",
)  # schemes whose objects appear only once they are complete


def version_of(service: Service, url: str) -> str | None:
    """Return a digest that changes with the content of an object; None if there is no object.

    Raises:
        SourceError: the service cannot be reached, or does not answer.
        StoreError: the URL is a folder.
    """
    try:
        found = service.ask("info", service.path(url))
    except Exception as error:
        failure = judge(error)
        if failure.kind is FailureKind.MISSING:
            return None
        raise SourceError(f"cannot look for {shown(url)}: {failure.reason}") from error
    if found["type"] == "directory":
        raise StoreError(f"the output {shown(url)} is a folder; give a file name such as 'features.h5' in it")
    return object_digest(found)


def check_writable(service: Service, url: str) -> None:
    """Check that an object can be written to a URL, as far as possible without writing it.

    Raises:
        ConfigError: this kind of URL cannot be written to, or the URL is a bucket.
        SourceError: the service refuses.
    """
    if service.scheme in ("http", "https"):
        raise ConfigError(f"nothing can be written to {shown(url)}; allowed: an object store, such as s3://")
    if not service.is_s3:
        return
    bucket, key = service.s3_bucket_and_key(url)
    if not key:
        raise ConfigError(
            f"the output {shown(url)} is a bucket; give an object in it, such as '/features.h5'"
        )
    try:
        service.run(_begin_and_abort(service, {"Bucket": bucket, "Key": key}))
    except Exception as error:
        raise SourceError(f"cannot write {shown(url)}: {judge(error).reason}") from error


def upload(service: Service, file: Path, url: str) -> None:
    """Upload a file; an existing object at the URL stays until the new one is complete.

    Raises:
        SourceError: all attempts failed.
    """
    target, size = service.path(url), os.stat(file).st_size
    try:
        if service.is_s3:
            service.run(_upload_to_s3(service, file, url, size))
        elif service.scheme in _ATOMIC_SCHEMES:
            service.run(_retried(service, lambda: service.call("put_file", str(file), target)))
        else:
            unfinished = f"{target}.sppfeat-part"
            service.run(_retried(service, lambda: service.call("put_file", str(file), unfinished)))
            service.fs.mv(unfinished, target)
        found = service.ask("info", target).get("size")
    except Exception as error:
        raise SourceError(f"cannot write {shown(url)}: {judge(error).reason}") from error
    if found not in (None, size):
        raise SourceError(f"cannot write {shown(url)}: of {size} bytes {found} are there")


def download(service: Service, url: str, file: Path) -> None:
    """Download an object of any size into a file.

    Raises:
        SourceError: all attempts failed.
    """
    try:
        service.run(_retried(service, lambda: service.call("get_file", service.path(url), str(file))))
    except Exception as error:
        raise SourceError(f"cannot read {shown(url)}: {judge(error).reason}") from error


async def _retried(service: Service, attempt: Callable[[], Awaitable[Any]]) -> Any:
    return await retried(attempt, is_passing=lambda error: judge(error).is_passing, patience=service.patience)


async def _begin_and_abort(service: Service, where: dict[str, str]) -> None:
    begun = await service.persistently(lambda: service.call_s3("create_multipart_upload", **where))
    await service.persistently(
        lambda: service.call_s3("abort_multipart_upload", **where, UploadId=begun["UploadId"])
    )


async def _upload_to_s3(service: Service, file: Path, url: str, size: int) -> None:
    """Upload in parts, a few at once, each with its own retries; s3fs would send the whole file again."""
    bucket, key = service.s3_bucket_and_key(url)
    where = {"Bucket": bucket, "Key": key}
    with open(file, "rb") as opened:

        def read(start: int, n_bytes: int) -> bytes:
            return os.pread(opened.fileno(), n_bytes, start)

        if size <= _PART_BYTES:
            await _sent(service, lambda: service.call_s3("put_object", **where, Body=read(0, size)))
            return
        begun = await service.persistently(lambda: service.call_s3("create_multipart_upload", **where))
        where["UploadId"] = begun["UploadId"]
        try:
            parts = await _send_parts(service, where, size, read)
            await service.persistently(
                lambda: service.call_s3(
                    "complete_multipart_upload", **where, MultipartUpload={"Parts": parts}
                )
            )
        except BaseException:  # interruptions included: parts left there would be paid for
            await asyncio.shield(service.call_s3("abort_multipart_upload", **where))
            raise


async def _send_parts(
    service: Service, where: dict[str, str], size: int, read: Callable[[int, int], bytes]
) -> list[dict[str, Any]]:
    """Send the parts of a file; return the list of parts that completes the upload."""
    n_bytes = max(_PART_BYTES, -(-size // _MOST_PARTS))
    starts = range(0, size, n_bytes)

    async def send(i: int) -> Any:
        return await _sent(
            service,
            lambda: service.call_s3("upload_part", **where, PartNumber=i + 1, Body=read(starts[i], n_bytes)),
        )

    answers = await run_jobs([partial(send, i) for i in range(len(starts))], _PARTS_AT_ONCE)
    return [{"PartNumber": i, "ETag": answer["ETag"]} for i, answer in enumerate(answers, 1)]


async def _sent(service: Service, attempt: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(attempt(), _SILENCES_PER_PART * service.patience.silence)

    return await _retried(service, limited)
