"""Splits a part into chunks of up to some thousand consecutive images.

While one chunk runs, the images of the next one are fetched and their headers read. If all images are local and their
sizes known, the whole part is one chunk.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.extraction.pipeline import FindPlaces
from sppfeat.extraction.plan import Plan
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs import Distant, Storage, local_places

__all__ = ["Chunk", "iterate_chunks"]

_FIRST_IMAGES = 256  # few, so that the network starts soon; each later chunk doubles
_MOST_FETCHED = 2048  # images of 100 kB take 200 MB of scratch, and the next chunk as much again
_MOST_FETCHED_NBYTES = 1 << 30  # of one chunk, if file sizes are known in advance
_MOST_LOCAL = 16_384  # enough for batches of one input size to fill up
_CANCEL_SECONDS = 0.1  # between attempts to cancel a download whose result nobody needs


Measure = Callable[[npt.NDArray[np.int64], Sequence[Place | str]], npt.NDArray[np.int64]]
"""Fills the sizes of images at these places into the plan, and returns the images whose size has changed."""


class Chunk(NamedTuple):
    """Consecutive images of a plan, fetched, measured and ready to run.

    Attributes:
        to_do: ``(n,)`` int64, the images to run.
        resized: ``(m,)`` int64, the images whose size in the output file is unknown or wrong.
        find_places: finds the places of images ``(k,)`` of the chunk; valid until the next chunk is requested.
    """

    to_do: npt.NDArray[np.int64]
    resized: npt.NDArray[np.int64]
    find_places: FindPlaces


def iterate_chunks(
    plan: Plan,
    to_do: npt.NDArray[np.int64],
    *,
    unmeasured: npt.NDArray[np.int64],
    resized: npt.NDArray[np.int64],
    measure: Measure,
    scratch: Path,
) -> Generator[Chunk, None, None]:
    """Yield the images to run in chunks; closing the generator releases fetched images.

    Args:
        plan: all images.
        to_do: ``(n,)`` int64, the images to run, ascending.
        unmeasured: ``(k,)`` int64, the images whose headers have not been read.
        resized: ``(m,)`` int64, the images whose size in the plan differs from the output file.
        measure: reads the headers of a chunk, in another thread.
        scratch: existing folder for images that must be fetched.
    """
    if plan.storage.is_local and not len(unmeasured):
        yield Chunk(to_do, resized, lambda images: local_places(plan.storage, plan.storage_index[images]))
        return
    load = _ChunkLoader(plan, unmeasured, resized, measure, scratch)
    left = deque(_cut_chunks(plan, to_do))
    with _LoaderThread(plan.storage) as thread:
        while left or thread.is_loading:
            if not thread.is_loading:
                thread.begin(load, left.popleft())
            chunk, held = thread.take()
            with held:
                if left:
                    thread.begin(load, left.popleft())
                yield chunk


def _cut_chunks(plan: Plan, to_do: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the images of each chunk: small chunks first, none larger than the scratch folder should hold."""
    storage = plan.storage
    most = _MOST_LOCAL if storage.is_local else _MOST_FETCHED
    start, size = 0, _FIRST_IMAGES
    while start < len(to_do):
        images = to_do[start : start + size]
        if isinstance(storage, Distant):
            nbytes = np.cumsum(storage.nbytes_of(np.maximum(plan.storage_index[images], 0)))
            images = images[: max(1, int(np.searchsorted(nbytes, _MOST_FETCHED_NBYTES, side="right")))]
        yield images
        start, size = start + len(images), min(2 * size, most)


class _ChunkLoader:
    """Fetches the images of a chunk and reads their headers."""

    def __init__(
        self,
        plan: Plan,
        unmeasured: npt.NDArray[np.int64],
        resized: npt.NDArray[np.int64],
        measure: Measure,
        scratch: Path,
    ) -> None:
        self._plan = plan
        self._unmeasured = unmeasured
        self._resized = resized
        self._measure = measure
        self._scratch = scratch

    def __call__(self, images: npt.NDArray[np.int64]) -> tuple[Chunk, contextlib.ExitStack]:
        """Load a chunk; return it with the open context that holds its images, which the caller closes."""
        plan = self._plan
        wanted = images[plan.storage_index[images] >= 0]
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(plan.storage.fetch(plan.storage_index[wanted], self._scratch))
            place_of: Mapping[int, Place | str] = dict(zip(wanted.tolist(), found, strict=True))
            unmeasured = np.intersect1d(wanted, self._unmeasured, assume_unique=True)
            changed = self._measure(unmeasured, [place_of[i] for i in unmeasured.tolist()])
            resized = np.union1d(np.intersect1d(images, self._resized, assume_unique=True), changed)
            chunk = Chunk(images, resized, lambda own: [place_of[image] for image in own.tolist()])
            return chunk, stack.pop_all()


class _LoaderThread:
    """A thread that loads one chunk ahead; leaving the context releases fetched images."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sppfeat-chunk")
        self._loading: Future[tuple[Chunk, contextlib.ExitStack]] | None = None

    def __enter__(self) -> "_LoaderThread":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self._loading
        if left is not None and isinstance(self._storage, Distant):
            while not left.done():  # cancel ends one download; the thread may start another
                self._storage.cancel()
                wait([left], timeout=_CANCEL_SECONDS)
        self._thread.shutdown(wait=True, cancel_futures=True)
        if left is not None and not left.cancelled() and left.exception() is None:
            left.result()[1].close()

    @property
    def is_loading(self) -> bool:
        """True while a chunk is being loaded, or waits to be taken."""
        return self._loading is not None

    def begin(self, load: _ChunkLoader, images: npt.NDArray[np.int64]) -> None:
        """Start to load the chunk of these images."""
        self._loading = self._thread.submit(load, images)

    def take(self) -> tuple[Chunk, contextlib.ExitStack]:
        """Wait for the chunk that is being loaded, and return it."""
        if self._loading is None:
            raise ValueError("no chunk is being loaded")
        loaded = self._loading.result()
        self._loading = None
        return loaded
