"""Finds the images of a command: folders, files, archives, tables, URLs and lists of them.

In go the inputs as a user names them; out comes one :class:`Listing` in a fixed order: paths below a root, class
labels, ids, and a :class:`Storage` that brings the bytes of any image to this machine. The room decodes no image and
knows nothing of networks, boxes and feature files.
"""

from sppfeat.files.paths import PathTable
from sppfeat.inputs.listing import Listing, list_images
from sppfeat.inputs.read import is_list, read_list
from sppfeat.inputs.storage import Distant, FileStorage, Storage, local_places

__all__ = [
    "Distant",
    "FileStorage",
    "Listing",
    "PathTable",
    "Storage",
    "is_list",
    "list_images",
    "local_places",
    "read_list",
]
