"""Pictures of feature files, and of the regions, bins and maxima that a network pools from an image.

A selection of an open file goes in, or an image with an extractor; a figure comes out, which ``figure`` styles and
writes as PNG, SVG or PDF. The data of a picture can also be computed without drawing it. The room must not know the
pages that show its pictures. Among the rooms of analysis, only this one imports torch.
"""
