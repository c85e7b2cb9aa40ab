"""Where the bytes of listed images are kept, and how they come to this machine."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sppfeat.files.byte_ranges import Place
from sppfeat.files.paths import PathTable

__all__ = ["Distant", "FileStorage", "JoinedStorage", "Storage", "local_places"]


class Storage(Protocol):
    """Keeps images, numbered from 0; columns, not an object per image."""

    @property
    def is_local(self) -> bool:
        """Whether places are known at once: nothing has to be fetched, copied or unpacked for them first."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this holds."""
        ...

    def fetch(
        self, images: npt.NDArray[np.int64], scratch: Path
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """Bring images to this machine.

        Args:
            images: ``(n,)`` int64, ascending as a rule: neighbours are read together.
            scratch: an existing folder for what has to be copied; everything in it is gone when the context ends.

        Returns:
            A context with a place for each image, or the reason why there is none. Places hold until it ends.
        """
        ...


@runtime_checkable
class Distant(Protocol):
    """A storage whose images come from elsewhere."""

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """``(n,)`` int64: bytes that each of these images takes here, as far as is known; 0 where it is not."""
        ...

    def cancel(self) -> None:
        """End a :meth:`Storage.fetch` that is under way in another thread."""
        ...


@dataclass(frozen=True)
class FileStorage:
    """Files of this machine.

    Attributes:
        root: absolute path of a folder.
        names: relative to it.
    """

    root: bytes
    names: PathTable

    is_local = True

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the names take."""
        return self.names.nbytes

    def fetch(
        self,
        images: npt.NDArray[np.int64],
        scratch: Path,  # noqa: ARG002
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """The files themselves."""
        return contextlib.nullcontext(
            [Place(os.path.join(self.root, self.names[i])) for i in images.tolist()]
        )


@dataclass(frozen=True)
class JoinedStorage:
    """Images of several storages.

    Attributes:
        parts: the storages.
        part_of: ``(N,)`` uint32, in which of them each image is.
        number_in: ``(N,)`` int64, and its number there.
    """

    parts: tuple[Storage, ...]
    part_of: npt.NDArray[np.uint32]
    number_in: npt.NDArray[np.int64]

    @property
    def is_local(self) -> bool:
        """Whether all of them are."""
        return all(part.is_local for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(part.nbytes for part in self.parts) + self.part_of.nbytes + self.number_in.nbytes

    @contextlib.contextmanager
    def fetch(self, images: npt.NDArray[np.int64], scratch: Path) -> Iterator[Sequence[Place | str]]:
        """Bring images to this machine, those of each storage together."""
        places: list[Place | str] = [""] * len(images)
        part_of = self.part_of[images]
        with contextlib.ExitStack() as stack:
            for part in np.unique(part_of).tolist():
                own = np.flatnonzero(part_of == part)
                found = stack.enter_context(self.parts[part].fetch(self.number_in[images[own]], scratch))
                for position, place in zip(own.tolist(), found, strict=True):
                    places[position] = place
            yield places

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Bytes that each image takes here once it is fetched, as far as is known."""
        nbytes = np.zeros(len(images), dtype=np.int64)
        for i, part in enumerate(self.parts):
            if isinstance(part, Distant):
                own = self.part_of[images] == i
                nbytes[own] = part.nbytes_of(self.number_in[images[own]])
        return nbytes

    def cancel(self) -> None:
        """End what is being fetched."""
        for part in self.parts:
            if isinstance(part, Distant):
                part.cancel()


def local_places(storage: Storage, images: npt.NDArray[np.int64]) -> Sequence[Place | str]:
    """The places of images, or why they have none, where all are local: these hold as long as the files do."""
    with storage.fetch(images, Path()) as places:
        return places
