"""Benchmarks on the user's machine: many boxes of an image, pooling, and a whole run stage by stage.

The network, the pyramid and the amounts to measure go in; median times come out, as dictionaries ready for JSON.
Competing ways run in turn (A B C A B C). The room prints nothing, reports progress by callbacks and leaves no files
behind. It must not know the command line, training or the analysis of finished files.
"""
