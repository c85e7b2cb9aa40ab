"""Where images come from: folders, files, archives and lists of them, as one listing in a fixed order."""

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
