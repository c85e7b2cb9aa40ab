"""Search for the rows nearest to a descriptor, exactly.

Queries (images, boxes of images, or rows) and a selection of an open file go in; the nearest rows come out, with their
distances, paths, labels and boxes. The search itself must not know images or networks: only ``queries`` computes
descriptors of images, with the settings recorded in the file, and loads torch only when there is an image to describe.
"""
