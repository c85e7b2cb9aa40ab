"""Measurements on the user's machine: boxes, pooling, and a run stage by stage."""
