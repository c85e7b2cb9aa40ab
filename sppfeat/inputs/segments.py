"""The images of one input, before they are joined with those of others."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.files.paths import PathTable
from sppfeat.inputs.storage import Storage

__all__ = ["OwnLabels", "Segment"]


@dataclass(frozen=True)
class OwnLabels:
    """Classes that an input itself gives its images.

    Attributes:
        labels: ``(n,)`` int64, index into ``classes`` or -1.
        classes: their names, in the input's own order where it has one.
    """

    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]


@dataclass(frozen=True)
class Segment:
    """The images of one input, in order.

    Attributes:
        top: absolute path of the folder that was scanned, or of the archive or table that was read, or a URL; None
            where files were named one by one.
        names: relative to ``top``, with ``/`` separators, unique; absolute where that is None, and then as often as
            they were named.
        above: the folder that the names of the output start from, if this is the only input; None: ``top``.
        storage: where their bytes are; None: files of this machine, as they are called.
        own_labels: None where folders tell the classes.
        ids: what the input calls each image; None where it has no such names.
        n_other_files: passed over, since they are no images by their suffix.
        n_repeated: images that the input has more than once, and that are taken once.
    """

    top: bytes | None
    names: PathTable
    above: bytes | None = None
    storage: Storage | None = None
    own_labels: OwnLabels | None = None
    ids: PathTable | None = None
    n_other_files: int = 0
    n_repeated: int = 0
