"""Measurements on the user's machine: many boxes of an image, pooling, planning, and a whole run stage by stage.

In go the settings of one measurement (``settings``), and with them the network and the pyramid to measure with; out
comes one frozen result for each measurement, with medians of passes that take turns. The room prints nothing and draws
no bar: it calls back with the number of passes that are done. It knows nothing of the command line, of training or of
the analysis of finished files, and leaves no file behind.
"""
