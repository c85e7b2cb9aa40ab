"""The worker process: reads headers and decodes images into the arena, until its pipe closes.

It imports Pillow and numpy, never torch or h5py. A worker starts in a tenth of a second, and when a decoder or the
system kills it, only the image in progress is lost.
"""

import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.decoding.arena import map_arena
from sppfeat.decoding.decoder import DecodeSettings
from sppfeat.decoding.images import decode_image, probe_image
from sppfeat.errors import ImageError
from sppfeat.files.byte_ranges import Place

__all__ = ["READY", "Crash", "DecodeJob", "ProbeJob", "main"]

READY = "ready"


class ProbeJob(NamedTuple):
    """A header to read; the answer is ``(height, width)`` in pixels, or the reason of a failure."""

    place: Place
    settings: DecodeSettings


class DecodeJob(NamedTuple):
    """An image to decode into the arena at ``offset``; the answer is None, or the reason of a failure."""

    place: Place
    settings: DecodeSettings
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    offset: int

    @property
    def end(self) -> int:
        """The offset in the arena where the pixels end."""
        return self.offset + 3 * self.input_hw[0] * self.input_hw[1]


class Crash(NamedTuple):
    """The answer to a job that hit a bug in this program."""

    traceback: str


def main(connection_fd: int, arena_fd: int) -> None:
    """Answers jobs in order, given the descriptors of the pipe to the parent and of the arena."""
    connection: Connection[Any, Any] = Connection(connection_fd)
    arena = map_arena(arena_fd)
    try:
        connection.send(READY)
    except (BrokenPipeError, ConnectionResetError):  # its parent has exited meanwhile
        return
    # Image libraries written in C print warnings there that name no file.
    if sys.stderr is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    while True:
        try:
            job = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            if isinstance(job, DecodeJob) and job.end > len(arena):  # it has grown since
                arena = map_arena(arena_fd)
            connection.send(_answer(job, arena))
        except (BrokenPipeError, ConnectionResetError):
            return


def _answer(job: ProbeJob | DecodeJob, arena: npt.NDArray[np.uint8]) -> tuple[int, int] | str | Crash | None:
    try:
        if isinstance(job, ProbeJob):
            return probe_image(job.place, exif=job.settings.exif, max_pixels=job.settings.max_pixels)
        pixels = decode_image(
            job.place, image_hw=job.image_hw, input_hw=job.input_hw, **job.settings._asdict()
        )
        arena[job.offset : job.end] = pixels.reshape(-1)
    except ImageError as error:
        return str(error)
    except Exception:  # carried to the parent, which raises it: the traceback must not be lost here
        return Crash(traceback.format_exc())
    return None
