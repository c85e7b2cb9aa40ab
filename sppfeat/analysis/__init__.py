"""Analysis of feature files: ``probe``, ``search``, ``show``, ``report``, ``export`` and ``reduce``.

An open feature file, or a selection of its rows and columns, goes in; scores, neighbors, pictures, an HTML page, or a
file in another format come out. Beside them lie ``inspection`` (``info`` and ``verify``), and what several of them
share: allowed values and their defaults (``choices``), checks and samples of rows (``rows``), and texts (``wording``).
They read files only through ``store``; they must not know HDF5, training, benchmarks or the command line, and only
``show`` may import torch.
"""
