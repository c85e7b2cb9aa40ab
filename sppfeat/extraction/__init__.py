"""Runs extractions: plans every image and row, fills feature files, and continues interrupted runs.

A request (:mod:`sppfeat.config.request`) goes in; feature files come out, with a summary before the run and counts
after it. A *plan* lists every image and row. A *part* of it goes into one file; a part runs in *chunks*, some thousand
images that are fetched and measured together, and a chunk in *batches* of images of one network-input size. ``run``
fills one file, ``sized_parts`` several files in turn, and ``ray`` many files at once; ``recompute`` checks rows of an
existing file. The package connects inputs, boxes, decoding, networks, pooling and the store, which do not know each
other. It must not know the command line, the HDF5 layout, or image formats.
"""
