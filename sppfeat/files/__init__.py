"""Reads, writes and names files, on this machine and in object stores.

Paths, file descriptors and URLs go in. Byte ranges, and versions that tell whether a file has changed
(:mod:`~sppfeat.files.places`), tables of paths and rows of text tables come out, and so do files that take their names
only once they are complete, locked against second writers (:mod:`~sppfeat.files.outputs`).
:mod:`~sppfeat.files.remote` reads and writes objects behind URLs. The room must not know pixels, features, HDF5, or the
run that reads and writes. Import from the submodules.
"""
