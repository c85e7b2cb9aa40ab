"""Kernels that pool regions of feature maps, behind :mod:`sppfeat.pyramid`.

In go one feature map, regions of its cells and the levels of a pyramid, all of them checked; out come descriptors of a
fixed length, one row a region. There are two ways, for few regions and for many, and the caller chooses. The room must
not know images, boxes in pixels, networks or files, and does not check its arguments.
"""
