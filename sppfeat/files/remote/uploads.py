"""Files of this machine put where a URL says, whole or not at all; and files brought from there."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sppfeat.errors import ConfigError, SourceError, StoreError
from sppfeat.files.remote.failures import Kind, judge
from sppfeat.files.remote.retries import retried
from sppfeat.files.remote.service import Service
from sppfeat.files.remote.urls import shown
from sppfeat.files.versions import object_digest

__all__ = ["check_writable", "download", "upload", "version_of"]

_PART_BYTES = 16 << 20
_MOST_PARTS = 9000  # of 10,000 that S3 allows
_PARTS_AT_ONCE = 4
_SILENCES_PER_PART = 10  # of a patience: five minutes for 16 MiB

_ATOMIC = (
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
)  # an object is there when it is whole


def version_of(service: Service, url: str) -> str | None:
    """What changes with the content of an object; None where there is none.

    Raises:
        SourceError: the service cannot be reached, or does not say.
        StoreError: it is a folder.
    """
    try:
        found = service.ask("info", service.path(url))
    except Exception as error:
        failure = judge(error)
        if failure.kind is Kind.MISSING:
            return None
        raise SourceError(f"cannot look for {shown(url)}: {failure.reason}") from error
    if found["type"] == "directory":
        raise StoreError(f"the output {shown(url)} is a folder; give a file name such as 'features.h5' in it")
    return object_digest(found)


def check_writable(service: Service, url: str) -> None:
    """Raise unless something can be written there, as far as that can be found out without writing it.

    Raises:
        ConfigError: nothing can be written by this kind of URL.
        SourceError: the service refuses.
    """
    if service.scheme in ("http", "https"):
        raise ConfigError(f"nothing can be written to {shown(url)}; allowed: an object store, such as s3://")
    if not _is_s3(service):
        return
    bucket, key, _ = service.fs.split_path(service.path(url))
    if not key:
        raise ConfigError(
            f"the output {shown(url)} is a bucket; give an object in it, such as '/features.h5'"
        )
    try:
        service.run(_begin_and_abort(service, {"Bucket": bucket, "Key": key}))
    except Exception as error:
        raise SourceError(f"cannot write {shown(url)}: {judge(error).reason}") from error


def upload(service: Service, file: Path, url: str) -> None:
    """Put a file where a URL says; what was there before stays until the new one is there, whole.

    Raises:
        SourceError: that failed, for longer than anybody has patience.
    """
    target, size = service.path(url), os.stat(file).st_size
    try:
        if _is_s3(service):
            service.run(_upload_to_s3(service, file, target, size))
        elif service.scheme in _ATOMIC:
            service.run(_retried(service, lambda: service.call("put_file", str(file), target)))
        else:
            partial = f"{target}.sppfeat-part"
            service.run(_retried(service, lambda: service.call("put_file", str(file), partial)))
            service.fs.mv(partial, target)
        found = service.ask("info", target).get("size")
    except Exception as error:
        raise SourceError(f"cannot write {shown(url)}: {judge(error).reason}") from error
    if found not in (None, size):
        raise SourceError(f"cannot write {shown(url)}: of {size} bytes {found} are there")


def download(service: Service, url: str, file: Path) -> None:
    """Bring an object here, of any size.

    Raises:
        SourceError: that failed, for longer than anybody has patience.
    """
    try:
        service.run(_retried(service, lambda: service.call("get_file", service.path(url), str(file))))
    except Exception as error:
        raise SourceError(f"cannot read {shown(url)}: {judge(error).reason}") from error


def _is_s3(service: Service) -> bool:
    return service.scheme in ("s3", "s3a")


async def _retried(service: Service, attempt: Callable[[], Awaitable[Any]]) -> Any:
    return await retried(attempt, is_passing=lambda error: judge(error).is_passing, patience=service.patience)


async def _begin_and_abort(service: Service, where: dict[str, str]) -> None:
    s3 = service.fs._call_s3
    begun = await service.persistently(lambda: s3("create_multipart_upload", **where))
    await service.persistently(lambda: s3("abort_multipart_upload", **where, UploadId=begun["UploadId"]))


async def _upload_to_s3(service: Service, file: Path, target: str, size: int) -> None:
    """Upload in parts, a few at once, each tried again for itself; s3fs would begin with the whole file again."""
    fs = service.fs
    bucket, key, _ = fs.split_path(target)
    where = {"Bucket": bucket, "Key": key}
    with open(file, "rb") as opened:

        def read(start: int, n_bytes: int) -> bytes:
            return os.pread(opened.fileno(), n_bytes, start)

        if size <= _PART_BYTES:
            await _sent(service, lambda: fs._call_s3("put_object", **where, Body=read(0, size)))
            return
        begun = await service.persistently(lambda: fs._call_s3("create_multipart_upload", **where))
        where["UploadId"] = begun["UploadId"]
        try:
            parts = await _send_parts(service, where, size, read)
            await service.persistently(
                lambda: fs._call_s3("complete_multipart_upload", **where, MultipartUpload={"Parts": parts})
            )
        except BaseException:  # an interruption, too: what is left there would be paid for
            await asyncio.shield(fs._call_s3("abort_multipart_upload", **where))
            raise


async def _send_parts(
    service: Service, where: dict[str, str], size: int, read: Callable[[int, int], bytes]
) -> list[dict[str, Any]]:
    """Send the parts of a file; return what S3 wants to hear of them in the end."""
    n_bytes = max(_PART_BYTES, -(-size // _MOST_PARTS))
    starts = range(0, size, n_bytes)
    etags = [""] * len(starts)
    left = iter(range(len(starts)))

    async def send_some() -> None:
        for i in left:
            answer = await _sent(
                service,
                lambda i=i: service.fs._call_s3(  # type: ignore[misc]
                    "upload_part", **where, PartNumber=i + 1, Body=read(starts[i], n_bytes)
                ),
            )
            etags[i] = answer["ETag"]

    workers = [asyncio.ensure_future(send_some()) for _ in range(_PARTS_AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [{"PartNumber": i, "ETag": etag} for i, etag in enumerate(etags, 1)]


async def _sent(service: Service, attempt: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(attempt(), _SILENCES_PER_PART * service.patience.silence)

    return await _retried(service, limited)
