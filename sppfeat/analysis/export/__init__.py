"""Export of feature files to the formats of other programs: NumPy, Parquet, LIBSVM, MATLAB, tables of text.

A selection of an open feature file goes in, with a path or an open stream. A file of another format comes out, whole or
not at all, with the rows in the order of the selection; they pass through in blocks, because they may exceed the
memory. Writers of formats must not know how feature files are stored, nor each other.
"""
