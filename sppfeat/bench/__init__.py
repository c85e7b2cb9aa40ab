"""Benchmarks on the user's machine: many boxes of an image, pooling, and a whole run stage by stage.

The network, the pyramid and the amounts to measure go in. A frozen result comes out, with medians of passes that take
turns (A B C A B C). The room prints nothing and draws no bar; it reports progress by callbacks. It must not know the
command line, training or the analysis of finished files, and leaves no files behind.
"""
