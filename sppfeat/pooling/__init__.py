"""Kernels that pool regions of feature maps, behind :mod:`sppfeat.pyramid`.

A feature map ``(C, H, W)``, regions of its cells and the levels of a pyramid go in, all checked by the caller.
Descriptors of a fixed length come out, one row per region. The room offers one kernel for a few regions and one for
many, and the caller chooses. It must not know images, boxes in pixels, networks or files.
"""
