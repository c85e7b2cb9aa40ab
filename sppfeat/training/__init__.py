"""Training of networks that contain a spatial pyramid, on class labels or on other networks (distillation).

A request (``settings``) goes in: folders of images, a backbone and, for distillation, its teachers. A weights file for
``--weights``, a log and checkpoints come out. A training that continues from a checkpoint gives the same result as an
uninterrupted one. The room must not know the command line, which passes callbacks for bars and signals, or the feature
files and their analysis.
"""
