"""Runs extractions: plans every image and row, fills feature files, and continues interrupted runs.

A request (:mod:`sppfeat.config.request`) goes in; feature files come out, with a summary before the run and counts
after it. The request is resolved once into a *run* (settings, network, inputs, decoder). The images that go into one
file, and the state of that file, are a *part*. A plain run and ``--shard`` are one part; ``--shard-size`` takes one
part after another; the actors of a Ray cluster each take the next one. A part runs in *chunks*, some thousand images
that are fetched and measured together, and a chunk in *batches* of images of one network-input size.

The package connects inputs, boxes, decoding, networks, pooling and the store, which do not know each other. It must
not know the command line, the HDF5 layout, or image formats.
"""
