"""Feature files: the only room that reads and writes HDF5.

In go tables of images and rows (:class:`~sppfeat.store.tables.FileTables`), descriptors as numpy arrays, and the
settings behind them. Out come complete, checked files (:mod:`~sppfeat.store.layout`, :mod:`~sppfeat.store.writer`,
:mod:`~sppfeat.store.merge`), open files with their selections (:mod:`~sppfeat.store.reader`), and reports of errors
(:mod:`~sppfeat.store.verify`). The room knows nothing of inputs, box files, decoding, networks or pooling, and nothing
of the run that fills a file; only :mod:`~sppfeat.store.torch_dataset` imports torch. Import from the submodules: each
loads only what it needs.
"""
