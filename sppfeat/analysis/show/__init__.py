"""Pictures of feature files and of images as a network sees them, one module a picture.

A selection of an open file goes in, or an image with an extractor; a figure comes out, which ``figure`` styles and
writes as PNG, SVG or PDF. The data of a picture can be computed without drawing it, as a report does. The room must not
know the pages that its pictures end up on; of all rooms of analysis it alone may use torch.
"""
