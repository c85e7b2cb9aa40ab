"""Pictures of feature files and of the pooling of one image.

A selection of an open file, or an image and an extractor, goes in. A figure comes out; ``figure`` styles it and writes
it as PNG, SVG or PDF. The values of a picture can also be computed without drawing it. The room must not know the pages
that show its pictures. It is the only room of ``analysis`` that imports torch.
"""
