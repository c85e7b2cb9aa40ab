"""Matches annotation files to inputs, by the names of the files and the image names inside them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.table import BoxTable
from sppfeat.config.wording import counted, first_few, quoted
from sppfeat.errors import BoxError
from sppfeat.files.image_names import Matches, match_images

__all__ = ["match_table"]

_SHOWN = 3
_HINT = "--box-names inside uses the names inside"


def match_table(table: BoxTable, root: bytes, paths: Sequence[bytes]) -> Matches:
    """Match the ``M`` images of a box file to the inputs, as :func:`sppfeat.files.image_names.match_images` does.

    An annotation file with the name of an input belongs to this input, whatever the image name inside; a note reports
    the difference. Tools pair images and annotations by file name, and renaming both does not change the name inside.

    Raises:
        BoxError: a name fits two inputs equally well, or two annotation files belong to one input.
    """
    image_of, notes = match_images(table.images, root, paths, kind=table.names)
    own_names = table.own_names or ()
    unlike = [i for i, own in enumerate(own_names) if own]
    if not unlike:
        return Matches(image_of, notes)
    try:
        own_of, _ = match_images([own_names[i] for i in unlike], root, paths)
    except BoxError:  # ambiguous file names do not contradict the names inside
        return Matches(image_of, notes)
    differs = (own_of >= 0) & (own_of != image_of[unlike])
    positions = np.array(unlike)[differs]
    inside_of = image_of[positions]
    image_of[positions] = own_of[differs]
    _check_pairs(table, image_of, positions, paths)
    all_notes = [*notes]
    for is_input, other in ((True, "another input inside"), (False, "no input inside")):
        chosen = positions[(inside_of >= 0) == is_input]
        if len(chosen):
            count = counted(
                len(chosen),
                "annotation file has the name of an input but names",
                "annotation files have the names of inputs but name",
            )
            examples = (
                f"{quoted(own_names[i])} names {quoted(table.images[i])} and is used for {quoted(paths[image_of[i]])}"
                for i in chosen.tolist()
            )
            all_notes.append(
                f"{count} {other}; the file name counts ({_HINT}): {first_few(examples, _SHOWN)}"
            )
    return Matches(image_of, tuple(all_notes))


def _check_pairs(
    table: BoxTable, image_of: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], paths: Sequence[bytes]
) -> None:
    """Raise BoxError if two annotation files belong to one input, one of them by its file name."""
    taken = np.isin(image_of, image_of[positions]) & (image_of >= 0)
    first: dict[int, int] = {}
    for i in np.flatnonzero(taken).tolist():
        other = first.setdefault(int(image_of[i]), i)
        if other != i:
            one, two, path = map(quoted, (table.images[other], table.images[i], paths[image_of[i]]))
            raise BoxError(
                f"two annotation files, with {one} and {two} inside, belong to {path}: one by its file name, the "
                f"other by the name inside; {_HINT}, --box-names file uses the file names"
            )
