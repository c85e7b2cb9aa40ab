"""Byte ranges of remote objects, read one by one or through a file that reads ahead."""

import asyncio
from typing import Any

from sppfeat.files.byte_ranges import RawBytes
from sppfeat.files.remote.failures import judge
from sppfeat.files.remote.service import Service

__all__ = ["RangeError", "RangeFile", "read_range"]

_BLOCK = 2 << 20  # bytes per request; several are under way at once
_BLOCKS_AHEAD = 8
_JUMP = 64 << 10  # bytes to fetch after a jump, when it is unknown whether reading continues from there
_NEAR = (
    4 << 20
)  # bytes that arrive in the time of one round trip: across a smaller gap, reading on is faster than another request


class RangeError(OSError):
    """A byte range of an object cannot be read; the text is the reason."""


async def read_range(service: Service, path: str, start: int, stop: int) -> bytes:
    """Read the bytes of an object from ``start`` to ``stop``, in one attempt.

    Raises:
        ConnectionError: fewer bytes arrived; another attempt may succeed.
        Exception: any error from the file system.
        RangeError: the service ignores the range.
    """
    content: bytes = await service.call("cat_file", path, start=start, end=stop)
    if len(content) < stop - start:
        raise ConnectionError(f"the transfer ended after {len(content)} of {stop - start} bytes")
    if len(content) > stop - start:
        raise RangeError("the server does not send parts of it")
    return content


class RangeFile(RawBytes):
    """A remote object as a file that reads ahead in several requests at once, and fetches little after a jump.

    In an archive with small members, reading on costs less than another request, so the members between the headers
    are fetched as well. In an archive with members of many MB only the headers are fetched.

    Args:
        service: service that has the object.
        path: name of the object in the file system.
        nbytes: size of the whole object.
    """

    def __init__(self, service: Service, path: str, nbytes: int) -> None:
        super().__init__(nbytes)
        self._service = service
        self._path = path
        self._start, self._content = 0, b""

    def readinto(self, buffer: Any, /) -> int:
        """Read from the current position into a buffer, as far as one fetch reaches.

        Raises:
            RangeError: the bytes cannot be fetched.
        """
        target = memoryview(buffer).cast("B")
        if self._position >= self._nbytes or not len(target):
            return 0
        if not self._start <= self._position < self._start + len(self._content):
            self._fetch()
        start = self._position - self._start
        content = self._content[start : start + len(target)]
        target[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _fetch(self) -> None:
        """Fetch the bytes at the current position and some of those that follow."""
        end = self._start + len(self._content)
        goes_on = bool(self._content) and 0 <= self._position - end <= _NEAR
        stop = min(self._nbytes, self._position + (_BLOCK * _BLOCKS_AHEAD if goes_on else _JUMP))
        blocks = [(start, min(start + _BLOCK, stop)) for start in range(self._position, stop, _BLOCK)]
        try:
            contents = self._service.run(self._read(blocks))
        except Exception as error:
            raise RangeError(judge(error).reason) from error
        self._start, self._content = self._position, b"".join(contents)

    async def _read(self, blocks: list[tuple[int, int]]) -> list[bytes]:
        service, path = self._service, self._path
        reads = [
            service.persistently(lambda start=start, stop=stop: read_range(service, path, start, stop))  # type: ignore[misc]
            for start, stop in blocks
        ]
        return await asyncio.gather(*reads)
