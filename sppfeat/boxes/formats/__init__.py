"""The reading of box files: any of the usual formats, as one table in the file's own order and convention."""

from sppfeat.boxes.formats.conventions import FORMATS, default_convention
from sppfeat.boxes.formats.reading import BoxFile, read_boxes
from sppfeat.boxes.formats.recognition import recognise_format

__all__ = ["FORMATS", "BoxFile", "default_convention", "read_boxes", "recognise_format"]
