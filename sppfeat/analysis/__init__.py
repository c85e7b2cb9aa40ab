"""Analysis of feature files: ``probe``, ``search``, ``show``, ``report``, ``export`` and ``reduce``.

An open feature file, or a selection of its rows and columns, goes in; scores, neighbors, pictures, an HTML page, or a
file in another format come out. ``inspection`` implements ``info`` and ``verify``. Shared are allowed values and their
defaults (``choices``), checks and samples of rows (``rows``), and texts (``wording``). The rooms read files through
``store``. They must not know HDF5, training, benchmarks or the command line, and only ``show`` may import torch.
"""
