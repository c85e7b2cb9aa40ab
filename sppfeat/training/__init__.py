"""Training of networks with a spatial pyramid in them, by class labels or by other networks (distillation).

In go a request (``settings``): folders of images, a backbone, and teachers if there are any; out come a file of
weights that ``--weights`` takes, a log, and checkpoints from which a training continues as if it had never stopped. The
room knows nothing of the command line, whose bars and signals reach it as callbacks, and nothing of feature files or of
their analysis.
"""
