"""Feature files: the only package that reads and writes HDF5.

Tables of images and rows (:class:`~sppfeat.store.tables.FileTables`), the settings of an extraction, and descriptors
as ``(K, D)`` numpy arrays go in. Feature files come out, written by :mod:`~sppfeat.store.layout` and
:mod:`~sppfeat.store.writer`, merged by :mod:`~sppfeat.store.merge`, opened and sliced by :mod:`~sppfeat.store.reader`,
and checked by :mod:`~sppfeat.store.verify`. The package must not know inputs, box files, decoding, networks or pooling,
or the run that fills a file; only :mod:`~sppfeat.store.torch_dataset` imports torch. Import from the submodules: each
one loads only its own dependencies.
"""
