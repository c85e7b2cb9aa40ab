"""Splits a part into chunks of up to some thousand consecutive images.

While one chunk runs, the images of the next one are fetched and their headers read. If all images are local and their
sizes known, the whole part is one chunk.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from sppfeat.config.specs import InputSpec
from sppfeat.decoding import Decoder
from sppfeat.extraction.pipeline import FindPlaces
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.row_planner import RowPlanner, add_sizes
from sppfeat.extraction.sizes import read_sizes_at
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs import Distant, Storage, local_places

__all__ = ["Chunk", "SizeReader", "iterate_chunks"]

_FIRST_IMAGES = 256  # few, so that the network starts soon; each later chunk doubles
_MOST_FETCHED = 2048  # images of 100 kB take 200 MB of scratch, and the next chunk as much again
_MOST_FETCHED_NBYTES = 1 << 30  # of one chunk, if file sizes are known in advance
_MOST_LOCAL = 16_384  # enough for batches of one input size to fill up
_CANCEL_SECONDS = 0.1  # between attempts to cancel a download whose result nobody needs


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of a plan, fetched, measured and ready to run.

    Attributes:
        first_image: index of the chunk's first image in the whole plan.
        first_row: index of the chunk's first row in the whole plan.
        plan: the plan of the chunk, with images and rows numbered from 0.
        to_do: ``(n,)`` int64, indices of the images to run in ``plan``.
        resized: ``(m,)`` int64, indices of the images whose size in the output file is unknown or wrong.
        find_places: finds the places of images ``(k,)`` of ``plan``; valid until the next chunk is requested.
    """

    first_image: int
    first_row: int
    plan: Plan
    to_do: npt.NDArray[np.int64]
    resized: npt.NDArray[np.int64]
    find_places: FindPlaces


@dataclass(frozen=True)
class SizeReader:
    """Reads the image sizes of a chunk while the chunk before it runs.

    Attributes:
        input: the network-input settings.
        planner: plans the rows of boxes; None for whole images.
        decoder: reads image headers; it must not be shared with the running chunk.
        scratch: folder for images that must be fetched.
    """

    input: InputSpec
    planner: RowPlanner | None
    decoder: Decoder
    scratch: Path

    def add_sizes(self, plan: Plan, images: npt.NDArray[np.int64], places: Sequence[Place | str]) -> Plan:
        """Read the headers of some images and return the plan with their sizes.

        Args:
            plan: the plan; its rows stay the same.
            images: ``(n,)`` int64, indices of the images to read.
            places: for each image, its place, or the reason why it has none.
        """
        return add_sizes(plan, images, read_sizes_at(places, self.decoder), self.input, self.planner)


def iterate_chunks(
    plan: Plan,
    to_do: npt.NDArray[np.int64],
    *,
    unmeasured: npt.NDArray[np.int64],
    resized: npt.NDArray[np.int64],
    open_reader: Callable[[], SizeReader],
) -> Generator[Chunk, None, None]:
    """Yield a plan in chunks; closing the generator releases fetched images.

    Args:
        plan: all images.
        to_do: ``(n,)`` int64, indices of the images to run, ascending.
        unmeasured: ``(k,)`` int64, indices of the images whose headers have not been read.
        resized: ``(m,)`` int64, indices of the images whose size in the plan differs from the output file.
        open_reader: makes the size reader; called only if images must be measured or fetched.
    """
    is_local = plan.storage.is_local
    if is_local and not len(unmeasured):
        yield _single_chunk(plan, to_do, resized)
        return
    load = _ChunkLoader(plan, unmeasured, resized, open_reader())
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


def _single_chunk(plan: Plan, to_do: npt.NDArray[np.int64], resized: npt.NDArray[np.int64]) -> Chunk:
    """Return a single chunk with the whole plan, for local images of known size."""

    def find_places(images: npt.NDArray[np.int64]) -> Sequence[Place | str]:
        return local_places(plan.storage, plan.storage_index[images])

    return Chunk(0, 0, plan, to_do, resized, find_places)


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
        reader: SizeReader,
    ) -> None:
        self._plan = plan
        self._is_unmeasured = np.zeros(plan.n_images, dtype=bool)
        self._is_unmeasured[unmeasured] = True
        self._is_resized = np.zeros(plan.n_images, dtype=bool)
        self._is_resized[resized] = True
        self._reader = reader

    def __call__(self, images: npt.NDArray[np.int64]) -> tuple[Chunk, contextlib.ExitStack]:
        """Load a chunk; return it with the open context that holds its images, which the caller closes."""
        first, stop = int(images[0]), int(images[-1]) + 1
        known = self._plan.part(first, stop)
        to_do = images - first
        wanted = to_do[known.storage_index[to_do] >= 0]
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(
                known.storage.fetch(known.storage_index[wanted], self._reader.scratch)
            )
            place_of: Mapping[int, Place | str] = dict(zip(wanted.tolist(), found, strict=True))
            unmeasured = wanted[self._is_unmeasured[wanted + first]]
            plan = self._reader.add_sizes(known, unmeasured, [place_of[i] for i in unmeasured.tolist()])
            is_resized = self._is_resized[first:stop] | (plan.image_hw != known.image_hw).any(axis=1)
            chunk = Chunk(
                first_image=first,
                first_row=self._plan.row_range(first, stop)[0],
                plan=plan,
                to_do=to_do,
                resized=np.flatnonzero(is_resized),
                find_places=lambda own: [place_of[image] for image in own.tolist()],
            )
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
