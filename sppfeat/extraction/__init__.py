"""Runs extractions: plans every image and row, fills feature files, and continues interrupted runs.

A request (:mod:`sppfeat.config.request`) goes in; feature files come out, with a summary before the run and counts
after it. The request is resolved once into a *run*: settings, network, inputs, decoder. A *part* is the images of one
file and the state of that file. A plain run or ``--shard`` has one part; ``--shard-size`` fills parts one after
another; the actors of a Ray cluster each take the next part. A part runs in *chunks*, some thousand images that are
fetched and measured together, and a chunk in *batches* of images of one network-input size.

The path of one whole image: 25 calls in nine modules, as a :class:`~sppfeat.files.places.Place`, in a
:class:`~sppfeat.decoding.Batch`, :class:`~sppfeat.decoding.Decoded`, and as :class:`~sppfeat.extraction.pipeline.Rows`:

- :mod:`~sppfeat.extraction.pipeline`: ``schedule`` puts it into a batch, ``_at_each_scale`` for each scale;
  ``_located`` adds its place, from ``local_places`` or ``fetch`` of its storage.
- :mod:`~sppfeat.decoding`: ``decode`` hands it to a process, where ``decode_image`` reads and resizes it.
- :mod:`~sppfeat.extraction.describe`: ``describe``, ``describe_images``, ``make_batch``, ``compute_maps``,
  ``_pool_whole`` and ``_scale``, with ``Backbone.maps`` of networks, ``spatial_pyramid_pool`` and ``pool_levels`` of
  :mod:`~sppfeat.pyramid`, and ``DeviceCopier`` to the device and back.
- :mod:`~sppfeat.extraction.pipeline`: ``add``, ``end_batch``, and in its thread ``_write`` and ``_mark``.
- :mod:`~sppfeat.store.writer`: ``write_rows`` and ``_write_at``, ``mark_done``, and ``_pwrite`` to the disk.

The package connects inputs, boxes, decoding, networks, pooling and the store, which do not know each other. It must
not know the command line, the HDF5 layout, or image formats.
"""
