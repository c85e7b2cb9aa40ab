"""Conducts extractions: plans their rows, fills feature files, continues interrupted runs.

A request goes in (:mod:`sppfeat.config.request`); feature files, a summary before the run and counts after it come out.
``run`` fills one file, ``sized_parts`` several files one after the other, and ``ray`` many files at once; ``recompute``
computes rows of a file again. The room connects inputs, boxes, decoding, networks, pooling and the store, which do not
know each other. It must not know the command line, the layout of a file, or the way an image is decoded.
"""
