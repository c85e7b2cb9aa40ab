"""Analysis of feature files, one room a verb: ``probe``, ``search``, ``show``, ``report``, ``export``, ``reduce``.

An open feature file, or a selection of its rows and columns, goes in; scores, neighbors, pictures, an HTML page, or a
file in another format come out. Modules that several rooms share lie beside them: allowed values and their defaults
(``choices``), checks and samples of rows (``rows``), and texts (``wording``). The rooms read files only through
``store``; they must not know HDF5, training, benchmarks or the command line, and only ``show`` may import torch.
"""
