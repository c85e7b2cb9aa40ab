"""Where images come from: folders, files and lists of them, as one listing in a fixed order."""

from sppfeat.sources.listing import Listing, list_images
from sppfeat.sources.paths import PathTable

__all__ = ["Listing", "PathTable", "list_images"]
