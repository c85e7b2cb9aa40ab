"""Lists the images that the user names.

Folders, files, archives, tables, URLs and lists of these go in. A single :class:`Listing` in a fixed order comes out:
paths below a root, class labels, ids, and a :class:`Storage` that fetches the bytes of any image to this machine. The
room must not know networks, boxes or feature files, and decodes no images.
"""

from sppfeat.inputs.listing import Listing, list_images
from sppfeat.inputs.read import find_image, is_list, read_list
from sppfeat.inputs.segments import FileStorage, Storage, local_places

__all__ = [
    "FileStorage",
    "Listing",
    "Storage",
    "find_image",
    "is_list",
    "list_images",
    "local_places",
    "read_list",
]
