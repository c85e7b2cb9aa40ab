"""Boxes for the images of a run: read from box files, or laid out as grids and views.

A box file in any common format, or the size of an image, goes in. Boxes ``(K, 4)`` in the pixels of each image come
out, with classes, scores and ids. The room must not know which images a run has: it matches no image names, decodes
no images, and knows nothing of networks or feature files.
"""
