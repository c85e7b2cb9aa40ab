"""Storages, which fetch the bytes of images to this machine: local files, and several storages joined."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sppfeat.files.paths import PathTable
from sppfeat.files.places import Place

__all__ = ["Distant", "FileStorage", "JoinedStorage", "Storage", "local_places"]


class Storage(Protocol):
    """A source of image bytes; images are numbered from 0 and kept as columns rather than one object per image."""

    @property
    def is_local(self) -> bool:
        """True if the places of images are known at once, with nothing to fetch, copy or unpack first."""
        ...

    def fetch(
        self, images: npt.NDArray[np.int64], scratch: Path
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """Fetch images to this machine.

        Args:
            images: ``(n,)`` int64, numbers of the images; ascending ones are faster, since neighbors are read
                together.
            scratch: an existing folder for copies, which are deleted when the context ends.

        Returns:
            A context that gives, for each image, its place or the reason why it has none. Places are valid until the
                context ends.
        """
        ...


@runtime_checkable
class Distant(Protocol):
    """A storage whose images come from another machine."""

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Size of each of these images on this machine in bytes, ``(n,)`` int64; 0 if unknown."""
        ...

    def cancel(self) -> None:
        """Cancel a :meth:`Storage.fetch` that another thread has started."""
        ...


@dataclass(frozen=True)
class FileStorage:
    """Images that are local files.

    Attributes:
        root: absolute path of a folder.
        names: paths of the files relative to it.
    """

    root: bytes
    names: PathTable

    is_local = True

    def fetch(
        self,
        images: npt.NDArray[np.int64],
        scratch: Path,  # noqa: ARG002
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """Return the places of the files themselves."""
        return contextlib.nullcontext(
            [Place(os.path.join(self.root, self.names[i])) for i in images.tolist()]
        )


@dataclass(frozen=True)
class JoinedStorage:
    """Images of several storages.

    Attributes:
        parts: the storages.
        part_of: ``(N,)`` uint32, the storage of each image.
        number_in: ``(N,)`` int64, the number of each image in its storage.
    """

    parts: tuple[Storage, ...]
    part_of: npt.NDArray[np.uint32]
    number_in: npt.NDArray[np.int64]

    @property
    def is_local(self) -> bool:
        """True if all storages are local."""
        return all(part.is_local for part in self.parts)

    @contextlib.contextmanager
    def fetch(self, images: npt.NDArray[np.int64], scratch: Path) -> Iterator[Sequence[Place | str]]:
        """Fetch images to this machine, one storage after the other."""
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
        """Size of each of these images on this machine in bytes, ``(n,)`` int64; 0 if unknown."""
        nbytes = np.zeros(len(images), dtype=np.int64)
        for i, part in enumerate(self.parts):
            if isinstance(part, Distant):
                own = self.part_of[images] == i
                nbytes[own] = part.nbytes_of(self.number_in[images[own]])
        return nbytes

    def cancel(self) -> None:
        """Cancel the transfers of all storages."""
        for part in self.parts:
            if isinstance(part, Distant):
                part.cancel()


def local_places(storage: Storage, images: npt.NDArray[np.int64]) -> Sequence[Place | str]:
    """Return the places of images in a local storage, or the reasons why they have none; valid as long as the files."""
    with storage.fetch(images, Path()) as places:
        return places
