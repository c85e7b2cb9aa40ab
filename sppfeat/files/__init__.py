"""Files as every other room uses them, wherever they are.

Paths, file descriptors and URLs go in. Out come bytes and places of bytes (:mod:`~sppfeat.files.byte_ranges`), tables
of paths, rows of text tables, and files that appear under their names only once they are whole
(:mod:`~sppfeat.files.atomic`), kept from second writers (:mod:`~sppfeat.files.locks`). Versions tell whether a file has
changed (:mod:`~sppfeat.files.versions`), and :mod:`~sppfeat.files.remote` does the same for object stores. The room
knows nothing of images, features or HDF5, and nothing of the run that reads or writes. Import from the submodules.
"""
