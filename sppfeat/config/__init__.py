"""Checked settings, and the request that a user makes.

Values from the command line, from Python and from feature files go in. Frozen dataclasses come out, checked and
converted to one type per field, together with the fingerprint of everything that a descriptor depends on
(:mod:`~sppfeat.config.extract_config`). The room also reports the cores, the memory and the optional packages of the
machine (:mod:`~sppfeat.config.machine`). It opens no inputs and no outputs, imports neither numpy nor torch, and must
not know how any other room uses the settings. Import from the submodules.
"""
