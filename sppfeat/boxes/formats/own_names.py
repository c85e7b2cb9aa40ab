"""Names of images in formats of one annotation file per image: the name inside the file, and the file's own."""

import os

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles
from sppfeat.boxes.table import BoxTableBuilder
from sppfeat.files.tables import shorten

__all__ = ["ImageNames"]


class ImageNames:
    """Adds the image of each annotation file to a table, under the name that counts.

    That is the name inside the file; with ``names="file"``, and where there is none inside, the file's own. A file
    whose own name differs keeps it in the table beside the other, unless ``names`` chooses.
    """

    def __init__(self, source: AnnotationFiles, builder: BoxTableBuilder) -> None:
        self._choice = source.names
        self._builder = builder
        self._files: dict[int, AnnotationFile] = {}  # by image

    def add(self, file: AnnotationFile, inside: bytes, image_hw: tuple[int, int], where: str) -> int:
        """Return the index of the image of a file; ``where`` is the place of the name inside.

        Raises:
            BoxError: another file has an image of the same name.
        """
        is_inside = bool(inside) and self._choice != "file"
        own = b"" if not is_inside or self._choice or _agree(inside, file.stem) else file.stem
        image = self._builder.add_image(inside if is_inside else file.stem, image_hw, own_name=own)
        other = self._files.setdefault(image, file)
        if other is not file:
            found = f"found {shorten(os.fsdecode(inside))}, as in {os.fsdecode(other.name)!r}"
            hint = "; --box-names file takes the names of the files" if own or other.stem != file.stem else ""
            raise file.error(where, f"{found}; allowed: one file an image{hint}")
        return image


def _agree(inside: bytes, stem: bytes) -> bool:
    """Return True if the name inside, with or without its suffix, is that of the file."""
    name, own = (os.path.basename(path.strip().replace(b"\\", b"/")).lower() for path in (inside, stem))
    return own in (name, os.path.splitext(name)[0])
