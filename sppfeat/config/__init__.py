"""Settings that check themselves, and the request that a user makes.

Values from the command line, from Python and from the records in feature files go in. Frozen dataclasses come out,
checked and in the one type that is compared and recorded, together with the fingerprint of everything that a
descriptor depends on (:mod:`~sppfeat.config.extract_config`). The room also knows the machine: cores, memory and
optional packages (:mod:`~sppfeat.config.machine`). It opens no inputs and no outputs, imports neither numpy nor torch,
and must not know how any other room uses the settings. Import from the submodules.
"""
