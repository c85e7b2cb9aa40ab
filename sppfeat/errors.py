"""The errors that a user can cause or cure.

A message says what was wrong, the value found, what is allowed, and where. Anything
that is not a :class:`SppfeatError` is a defect of the program and keeps its traceback.
"""

__all__ = [
    "BoxError",
    "ConfigError",
    "DecoderError",
    "DeviceMemoryError",
    "EngineError",
    "ImageError",
    "LabelError",
    "SourceError",
    "SppfeatError",
    "StoreError",
    "WeightsError",
]


class SppfeatError(Exception):
    """Base of every error that has a cause outside the program."""


class ConfigError(SppfeatError):
    """A setting, or a combination of settings, that cannot be honoured."""


class ImageError(SppfeatError):
    """One image cannot be read, decoded or brought to a valid network-input size."""


class BoxError(SppfeatError):
    """Boxes that are malformed, or that do not fit the image or layer they are for."""


class LabelError(SppfeatError):
    """Labels that are malformed, or that do not fit the rows they are for."""


class SourceError(SppfeatError):
    """Where images come from, or an output goes to, cannot be reached or refuses everything: the run cannot go on."""


class WeightsError(SppfeatError):
    """Weights cannot be found, fetched, read, or do not fit the backbone."""


class DecoderError(SppfeatError):
    """A decoding process cannot be started, or ended when it should not have."""


class DeviceMemoryError(SppfeatError):
    """The device has too little memory for what it was given."""


class EngineError(SppfeatError):
    """What is to do the work cannot be reached, or has given up."""


class StoreError(SppfeatError):
    """The feature file cannot be created, locked, opened, trusted or continued."""
