"""Extraction on a Ray cluster: actors take the parts of a plan, and their files are merged into the output.

A request goes in; parts come out that are ready to be filled, with the interface of
:class:`sppfeat.extraction.part.Parts`. Only this package imports Ray, and it must not know how rows are computed or
stored. Ray imports :mod:`~sppfeat.extraction.ray.actor` before the environment of an actor is set up, so that module
imports what loads torch inside functions.
"""
