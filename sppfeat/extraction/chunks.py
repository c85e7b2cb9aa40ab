"""A run in windows: some thousand consecutive images at a time, fetched and measured while those before them run.

Of images that are files of this machine, and whose sizes are known, there is one window.
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
from sppfeat.extraction.pipeline import Places
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.row_planner import RowPlanner, with_sizes
from sppfeat.extraction.sizes import sizes_at
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs import Distant, Storage, local_places

__all__ = ["Learning", "Window", "windows"]

_FIRST_IMAGES = 256  # so that the network has something to do soon; each window after it is twice as large
_MOST_FETCHED = 2048  # at 100 kB each 200 MB of scratch, and as much for the next window
_MOST_FETCHED_NBYTES = 1 << 30  # where it is known before how much that is
_MOST_LOCAL = 16_384  # enough that images of one shape meet in a batch
_CANCEL_SECONDS = 0.1  # between two attempts to end what is fetched for nobody


@dataclass(frozen=True)
class Window:
    """Consecutive images of a plan that can be run.

    Attributes:
        first: number of its first image in the whole plan.
        first_row: and of its first row.
        plan: these images, numbered from 0.
        to_do: ``(n,)`` int64, which of them to run.
        resized: ``(m,)`` int64, those whose size the file does not have right.
        places: where they are; for as long as the next window has not been asked for.
    """

    first: int
    first_row: int
    plan: Plan
    to_do: npt.NDArray[np.int64]
    resized: npt.NDArray[np.int64]
    places: Places


@dataclass(frozen=True)
class Learning:
    """How sizes are learnt in windows.

    Attributes:
        input: sizes of the network input.
        planner: makes the boxes, where there are any.
        decoder: reads headers, and is used by nobody else meanwhile.
        scratch: a folder for what has to be fetched.
    """

    input: InputSpec
    planner: RowPlanner | None
    decoder: Decoder
    scratch: Path


def windows(
    plan: Plan,
    to_do: npt.NDArray[np.int64],
    *,
    to_learn: npt.NDArray[np.int64],
    resized: npt.NDArray[np.int64],
    learning: Callable[[], Learning],
) -> Generator[Window, None, None]:
    """Yield a plan in windows; to be closed.

    Args:
        plan: all of it.
        to_do: ``(n,)`` int64, ascending, images to run.
        to_learn: ``(k,)`` int64, those of which the size has to be learnt.
        resized: ``(m,)`` int64, those whose size the plan has and the file does not.
        learning: how; called only if sizes have to be learnt or images to be fetched.
    """
    is_local = plan.storage.is_local
    if is_local and not len(to_learn):
        yield _everything(plan, to_do, resized)
        return
    prepare = _Preparation(plan, to_learn, resized, learning())
    chunks = deque(_chunks(plan, to_do))
    with _OneAhead(plan.storage) as ahead:
        while chunks or ahead.is_under_way:
            if not ahead.is_under_way:
                ahead.begin(prepare, chunks.popleft())
            window, held = ahead.take()
            with held:
                if chunks:
                    ahead.begin(prepare, chunks.popleft())
                yield window


def _everything(plan: Plan, to_do: npt.NDArray[np.int64], resized: npt.NDArray[np.int64]) -> Window:
    """One window of files that lie here, and whose sizes are known."""

    def places(images: npt.NDArray[np.int64]) -> Sequence[Place | str]:
        return local_places(plan.storage, plan.stored_as[images])

    return Window(0, 0, plan, to_do, resized, places)


def _chunks(plan: Plan, to_do: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Cut the images into windows: small ones first, and none of more than can lie here."""
    storage = plan.storage
    most = _MOST_LOCAL if storage.is_local else _MOST_FETCHED
    start, size = 0, _FIRST_IMAGES
    while start < len(to_do):
        chunk = to_do[start : start + size]
        if isinstance(storage, Distant):
            nbytes = np.cumsum(storage.nbytes_of(np.maximum(plan.stored_as[chunk], 0)))
            chunk = chunk[: max(1, int(np.searchsorted(nbytes, _MOST_FETCHED_NBYTES, side="right")))]
        yield chunk
        start, size = start + len(chunk), min(2 * size, most)


class _Preparation:
    """Makes a window of some images: fetches them, and reads their headers."""

    def __init__(
        self,
        plan: Plan,
        to_learn: npt.NDArray[np.int64],
        resized: npt.NDArray[np.int64],
        learning: Learning,
    ) -> None:
        self._plan = plan
        self._is_to_learn = np.zeros(plan.n_images, dtype=bool)
        self._is_to_learn[to_learn] = True
        self._is_resized = np.zeros(plan.n_images, dtype=bool)
        self._is_resized[resized] = True
        self._learning = learning

    def __call__(self, images: npt.NDArray[np.int64]) -> tuple[Window, contextlib.ExitStack]:
        """Return the window, and what holds its places: to be closed."""
        first, stop = int(images[0]), int(images[-1]) + 1
        known = self._plan.part(first, stop)
        to_do = images - first
        wanted = to_do[known.stored_as[to_do] >= 0]
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(known.storage.fetch(known.stored_as[wanted], self._learning.scratch))
            place_of = dict(zip(wanted.tolist(), found, strict=True))
            plan = self._learn(known, wanted[self._is_to_learn[wanted + first]], place_of)
            is_resized = self._is_resized[first:stop] | (plan.image_hw != known.image_hw).any(axis=1)
            window = Window(
                first=first,
                first_row=self._plan.row_range(first, stop)[0],
                plan=plan,
                to_do=to_do,
                resized=np.flatnonzero(is_resized),
                places=lambda own: [place_of[image] for image in own.tolist()],
            )
            return window, stack.pop_all()

    def _learn(self, plan: Plan, images: npt.NDArray[np.int64], place_of: Mapping[int, Place | str]) -> Plan:
        how = self._learning
        found = sizes_at([place_of[image] for image in images.tolist()], how.decoder)
        return with_sizes(plan, images, found, how.input, how.planner)


class _OneAhead:
    """Prepares a window in a thread of its own; a context, at the end of which nothing is held any more."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sppfeat-window")
        self._under_way: Future[tuple[Window, contextlib.ExitStack]] | None = None

    def __enter__(self) -> "_OneAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self._under_way
        if left is not None and isinstance(self._storage, Distant):
            while not left.done():  # what is cancelled is only what it is at: it may go on to the next
                self._storage.cancel()
                wait([left], timeout=_CANCEL_SECONDS)
        self._thread.shutdown(wait=True, cancel_futures=True)
        if left is not None and not left.cancelled() and left.exception() is None:
            left.result()[1].close()

    @property
    def is_under_way(self) -> bool:
        """Whether a window is being prepared, or waits to be taken."""
        return self._under_way is not None

    def begin(self, prepare: _Preparation, images: npt.NDArray[np.int64]) -> None:
        """Prepare a window of these images."""
        self._under_way = self._thread.submit(prepare, images)

    def take(self) -> tuple[Window, contextlib.ExitStack]:
        """Wait for the window that is under way."""
        if self._under_way is None:
            raise ValueError("no window is under way")
        prepared = self._under_way.result()
        self._under_way = None
        return prepared
