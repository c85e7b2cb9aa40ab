"""The fetcher of remote objects, which copies many at once to this machine and reports each one's place or failure."""

import asyncio
import contextlib
import functools
import itertools
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sppfeat.errors import ImageError, SourceError
from sppfeat.files.byte_ranges import Place
from sppfeat.files.remote import shown
from sppfeat.files.remote.failures import Failure, FailureKind, judge
from sppfeat.files.remote.retries import retried
from sppfeat.files.remote.service import N_TRANSFERS, Service, run_jobs

__all__ = ["LARGEST_OBJECT", "UNKNOWN_SIZE", "FetchJob", "Fetcher"]

LARGEST_OBJECT = 1 << 30
"""The most bytes of an object; a larger one fails, since no image that can be decoded is as large."""

UNKNOWN_SIZE = -1
"""Size of an object that was listed without one."""

_IN_A_ROW = 8


class FetchJob(NamedTuple):
    """An object to fetch, or a part of one.

    Attributes:
        url: URL of the object.
        attempt: makes one attempt to fetch it.
    """

    url: str
    attempt: Callable[[], Awaitable[Any]]


class Fetcher:
    """Fetches objects of one service, or parts of them, to this machine.

    A lasting failure is blamed on the object if the service answered other requests in the meantime. If it answers
    none, the run ends, so that no image counts as bad because a network is down.

    Args:
        service: service that has the objects.
        folder: an existing, empty folder for the fetched files.
        witness: URL of an object to request when no other request shows whether the service answers.
    """

    def __init__(self, service: Service, folder: Path, *, witness: str | None = None) -> None:
        self._service = service
        self._folder = folder
        self._witness = witness
        self._numbers = itertools.count()
        self._n_answers = 0
        self._n_denied = 0
        self._n_come = 0
        self._broken_in_a_row = 0

    async def fetch(self, urls: Sequence[str], sizes: Sequence[int]) -> list[Place | str]:
        """Fetch whole objects, each into its own file; return the place of each, or the reason of its failure.

        Args:
            urls: URLs of the objects.
            sizes: their sizes in bytes as listed, or ``UNKNOWN_SIZE``.

        Raises:
            SourceError: see :meth:`run`.
        """
        jobs = [
            FetchJob(url, functools.partial(self._attempt, url, size))
            for url, size in zip(urls, sizes, strict=True)
        ]
        return await self.run(jobs)

    async def run(self, jobs: Sequence[FetchJob]) -> list[Any]:
        """Run jobs; return the result of each, or the reason of its failure.

        Raises:
            SourceError: the service cannot be reached, or refuses everything; or this machine's disk is full.
        """
        results = await run_jobs([functools.partial(self._run, job) for job in jobs], N_TRANSFERS)
        if self._n_denied >= _IN_A_ROW and not self._n_come:
            raise SourceError(
                f"cannot read {shown(jobs[0].url)} nor any other of {len(jobs)} objects: permission denied"
            )
        return results

    async def _run(self, job: FetchJob) -> Any:
        """Run one job, with retries."""
        before = 0

        async def attempt() -> Any:
            nonlocal before
            before = self._n_answers
            return await job.attempt()

        try:
            result = await retried(attempt, is_passing=_is_passing, patience=self._service.patience)
        except ImageError as error:
            return str(error)
        except Exception as error:
            return await self._settle(judge(error), job.url, was_answered=self._n_answers > before)
        self._n_come += 1
        self._answered()
        return result

    def _answered(self) -> None:
        self._n_answers += 1
        self._broken_in_a_row = 0

    async def _settle(self, failure: Failure, url: str, *, was_answered: bool) -> str:
        """Return the reason of a lasting failure.

        Args:
            failure: failure of the last attempt.
            url: URL of the object.
            was_answered: True if the service answered other requests during that attempt.

        Raises:
            SourceError: the failure does not concern this object alone.
        """
        where = shown(url)
        if failure.kind is FailureKind.LOCAL or not self._folder.is_dir():
            raise SourceError(f"cannot write {where} to {str(self._folder)!r}: {failure.reason}")
        if failure.kind is FailureKind.REFUSED:
            raise SourceError(f"cannot read {where}: {failure.reason}")
        if failure.kind is FailureKind.UNREACHABLE and not was_answered and not await self._answers_witness():
            raise SourceError(f"cannot read {where}, tried for long: {failure.reason}")
        if failure.is_passing:
            self._broken_in_a_row += 1
            if self._broken_in_a_row == _IN_A_ROW:
                raise SourceError(
                    f"cannot read {where}, nor the {_IN_A_ROW - 1} objects before it, tried for long: {failure.reason}"
                )
        else:
            self._answered()
            self._n_denied += failure.kind is FailureKind.DENIED
        return failure.reason

    async def _answers_witness(self) -> bool:
        """Return True if the service answers a request for the witness, even with an error."""
        if self._witness is None:
            return False
        question = self._service.call("info", self._service.path(self._witness))
        try:
            await self._service.patiently(question)
        except Exception as error:
            return judge(error).kind in (FailureKind.MISSING, FailureKind.DENIED)
        return True

    async def _attempt(self, url: str, size: int) -> Place:
        """Fetch one object in one attempt; raise TimeoutError if no byte arrives for ``patience.silence`` seconds."""
        if size > LARGEST_OBJECT:
            raise ImageError(_too_large(size))
        # Each attempt has its own file: an abandoned thread may still write to that of the last attempt.
        file, path = self._folder / str(next(self._numbers)), self._service.path(url)
        count = _counter()()
        transfer = asyncio.ensure_future(self._service.call("get_file", path, str(file), callback=count))
        came = -1
        try:
            while not transfer.done():
                if count.value == came:
                    raise TimeoutError(f"no byte for {self._service.patience.silence:g} s")
                came = count.value
                await asyncio.wait({transfer}, timeout=self._service.patience.silence)
            await transfer
        except BaseException:
            count.is_unwanted = True
            transfer.cancel()
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            raise
        n_bytes = os.stat(file).st_size
        if n_bytes < size:  # cut short, or replaced in the meantime
            size = (await self._service.call("info", path)).get("size") or 0
            if n_bytes < size:
                raise OSError(f"the transfer ended after {n_bytes} of {size} bytes")
        return Place(os.fsencode(file))


def _is_passing(error: Exception) -> bool:
    return not isinstance(error, ImageError) and judge(error).is_passing


def _too_large(n_bytes: int) -> str:
    return f"the object has {n_bytes} bytes or more; allowed: {LARGEST_OBJECT}"


@functools.cache
def _counter() -> Any:
    """Return an fsspec callback class that counts the bytes of a transfer and aborts it when there are too many."""
    from fsspec.callbacks import Callback

    class Counter(Callback):  # type: ignore[misc]
        is_unwanted = False

        def call(self, hook_name: str | None = None, **options: Any) -> None:  # noqa: ARG002
            if self.is_unwanted:  # in a thread, which nothing else can stop
                raise TimeoutError
            n_bytes = max(self.value, self.size or 0)
            if self.value and n_bytes > LARGEST_OBJECT:
                raise ImageError(_too_large(n_bytes))

    return Counter
