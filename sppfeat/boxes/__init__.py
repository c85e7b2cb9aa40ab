"""Boxes for the images of a run: read from box files, or laid out as grids and views.

In goes a box file of any usual format, or the size of an image; out come boxes in pixels, with classes, scores and ids.
The room matches no names of images, decodes no image and knows nothing of networks and feature files.
"""
