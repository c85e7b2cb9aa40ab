"""Which rows a classifier learned from, in 8 bytes each: enough to know them again, in whatever file."""

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sppfeat.store.selection import Selection

__all__ = ["row_digests"]

_NBYTES = 8  # one of a million rows equals one of a million others by chance once in twenty million times
_AT_ONCE = 1 << 16  # rows


def row_digests(selection: "Selection", positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """A digest of what each row is of: the path of its image, with the root, and its box.

    The same photograph has the same digest in every file that was made of it at that place. One that lies elsewhere, or
    under another root, has another one: ``train/1.jpg`` and ``test/1.jpg`` are not taken for each other.

    Args:
        selection: rows of an open file.
        positions: ``(k,)``, among the rows of the selection.

    Returns:
        ``(k,)`` uint64.
    """
    file = selection.file
    root, paths, boxes = os.fsencode(file.root), file.path_table, file.boxes
    rows, images = selection.rows[positions], selection.groups[positions]
    digests = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sides = boxes[rows[part]].astype("<f8") + 0.0  # no negative zeros
        digests[part] = [
            int.from_bytes(_digest(os.path.join(root, paths[image]), box.tobytes()), "little")
            for image, box in zip(images[part].tolist(), sides, strict=True)
        ]
    return digests


def _digest(path: bytes, box: bytes) -> bytes:
    return hashlib.blake2b(box + path, digest_size=_NBYTES).digest()  # a box is always of the same length
