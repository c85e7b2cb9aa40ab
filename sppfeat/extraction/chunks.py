"""Splits a part into chunks of up to some thousand consecutive images.

While one chunk runs, the images of the next one are fetched and their headers read. If all images are local and their
sizes known, the whole part is one chunk.
"""

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Decoder
from sppfeat.extraction.pipeline import FindPlaces
from sppfeat.extraction.plan import Plan, read_sizes_at
from sppfeat.extraction.run import Run
from sppfeat.files.places import Place
from sppfeat.inputs import Storage, local_places

__all__ = ["Chunk", "iterate_chunks"]

_FIRST_IMAGES = 256  # few, so that the network starts soon; each later chunk doubles
_MOST_FETCHED = 2048  # images of 100 kB take 200 MB of scratch, and the next chunk as much again
_MOST_FETCHED_NBYTES = 1 << 30  # of one chunk, if file sizes are known in advance
_MOST_LOCAL = 16_384  # enough for batches of one input size to fill up
_CANCEL_SECONDS = 0.1  # between attempts to cancel a download that is no longer needed


class Chunk(NamedTuple):
    """Consecutive images of a plan, fetched, measured and ready to run."""

    to_do: npt.NDArray[np.int64]  # (n,) int64, the images to run
    resized: npt.NDArray[np.int64]  # (m,) int64, the images whose size in the file is unknown or wrong
    # Finds the places of images of the chunk; valid until the next chunk is requested.
    find_places: FindPlaces


_Loaded = tuple[Chunk, contextlib.ExitStack]
"""A chunk, and the open context that holds its images."""


def iterate_chunks(
    run: Run,
    plan: Plan,
    to_do: npt.NDArray[np.int64],
    *,
    unmeasured: npt.NDArray[np.int64],
    resized: npt.NDArray[np.int64],
) -> Generator[Chunk, None, None]:
    """Yield the images to run in chunks; closing the generator releases fetched images.

    Args:
        run: reads headers, in another thread, and has the folder for fetched images.
        plan: all images; their sizes are filled in.
        to_do: ``(n,)`` int64, the images to run, ascending.
        unmeasured: ``(k,)`` int64, the images whose headers have not been read.
        resized: ``(m,)`` int64, the images whose size in the plan differs from the output file.
    """
    storage = plan.storage
    if storage.is_local and not len(unmeasured):
        yield Chunk(to_do, resized, lambda images: local_places(storage, plan.storage_index[images]))
        return

    def load(images: npt.NDArray[np.int64], prober: Decoder) -> _Loaded:
        wanted = images[plan.storage_index[images] >= 0]
        unknown = np.intersect1d(wanted, unmeasured, assume_unique=True)
        plan.note_versions(unknown)
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(storage.fetch(plan.storage_index[wanted], run.scratch))
            place_of: Mapping[int, Place | str] = dict(zip(wanted.tolist(), found, strict=True))
            sizes = read_sizes_at([place_of[i] for i in unknown.tolist()], prober)
            changed = run.measure(plan, unknown, sizes)
            wrong = np.union1d(np.intersect1d(images, resized, assume_unique=True), changed)
            chunk = Chunk(images, wrong, lambda own: [place_of[image] for image in own.tolist()])
            return chunk, stack.pop_all()

    left = deque(_cut_chunks(plan, to_do))
    with run.open_prober() if len(unmeasured) else contextlib.nullcontext(run.decoder) as prober:
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sppfeat-chunk")
        loading = thread.submit(load, left.popleft(), prober) if left else None
        try:
            while loading is not None:
                (chunk, held), loading = loading.result(), None
                with held:
                    loading = thread.submit(load, left.popleft(), prober) if left else None
                    yield chunk
        finally:
            _abandon(loading, storage)
            thread.shutdown(wait=True)


def _cut_chunks(plan: Plan, to_do: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the images of each chunk, small chunks first, none of them too large for the scratch folder."""
    storage = plan.storage
    most = _MOST_LOCAL if storage.is_local else _MOST_FETCHED
    start, size = 0, _FIRST_IMAGES
    while start < len(to_do):
        images = to_do[start : start + size]
        nbytes = np.cumsum(storage.nbytes_of(np.maximum(plan.storage_index[images], 0)))
        images = images[: max(1, int(np.searchsorted(nbytes, _MOST_FETCHED_NBYTES, side="right")))]
        yield images
        start, size = start + len(images), min(2 * size, most)


def _abandon(loading: Future[_Loaded] | None, storage: Storage) -> None:
    """Cancel the chunk that is being loaded, if any, and release its images."""
    if loading is None:
        return
    while not loading.done():
        storage.cancel()  # cancels one download; the thread may start another
        wait([loading], timeout=_CANCEL_SECONDS)
    if loading.exception() is None:
        loading.result()[1].close()
