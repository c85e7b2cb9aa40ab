"""Training of networks that contain a spatial pyramid, on class labels or on other networks (distillation).

A request (``settings``) goes in: folders of images, a backbone, and for distillation its teachers. A weights file for
``--weights``, a log and checkpoints come out; a training continued from a checkpoint ends like an uninterrupted one.
The room must not know the command line, whose bars and signals reach it as callbacks, or feature files and their
analysis.
"""
