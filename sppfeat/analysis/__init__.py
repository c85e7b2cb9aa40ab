"""Work on finished feature files, one room a verb: ``probe``, ``search``, ``show``, ``report``, ``export``, ``reduce``.

An open feature file, or a selection of its rows and columns, goes in; scores, neighbors, pictures, a page, or a file in
another format come out. The modules beside the rooms hold what two of them need: the choices of the command line and
their defaults, checks of rows, and texts. These rooms read files through ``store`` alone: they must not know HDF5,
training, benchmarks or the command line, and only ``show`` may load torch.
"""
