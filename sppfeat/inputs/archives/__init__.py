"""Archives of images, read in place: tar files, as WebDataset has them, and zip files."""

from sppfeat.inputs.archives.index import ArchiveIndex
from sppfeat.inputs.archives.local import read_tar, read_zip
from sppfeat.inputs.archives.tar import index_tar
from sppfeat.inputs.archives.zip import data_offset, index_zip

__all__ = ["ArchiveIndex", "data_offset", "index_tar", "index_zip", "read_tar", "read_zip"]
