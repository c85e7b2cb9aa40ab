"""Errors that a user can cause or fix.

A message names the problem, the value found, the values allowed, and the place. Any
error that is not a :class:`SppfeatError` is a defect of the program and keeps its traceback.
"""

__all__ = [
    "BoxError",
    "BoxWarning",
    "ConfigError",
    "DecoderError",
    "DeviceMemoryError",
    "EngineError",
    "ImageError",
    "LabelError",
    "LabelWarning",
    "SourceError",
    "SppfeatError",
    "StoreError",
    "WeightsError",
]


class SppfeatError(Exception):
    """Base of all errors whose cause lies outside the program."""


class ConfigError(SppfeatError):
    """A setting, or a combination of settings, that cannot be honored."""


class ImageError(SppfeatError):
    """One image cannot be read, decoded or brought to a valid network-input size."""


class BoxError(SppfeatError):
    """Boxes are malformed, or do not fit their image or layer."""


class BoxWarning(UserWarning):
    """Boxes without area inside their image, whose descriptors are NaN."""


class LabelError(SppfeatError):
    """Labels are malformed, or do not fit their rows."""


class LabelWarning(UserWarning):
    """Labels match only some rows of a file; the commands print it as a note."""


class SourceError(SppfeatError):
    """A source of images, or the destination of an output, cannot be reached or refuses every request."""


class WeightsError(SppfeatError):
    """Weights cannot be found, fetched or read, or do not fit the backbone."""


class DecoderError(SppfeatError):
    """A decoding process cannot be started, or has ended unexpectedly."""


class DeviceMemoryError(SppfeatError):
    """The device has too little memory for the network or a batch."""


class EngineError(SppfeatError):
    """The engine of a run, such as a Ray cluster, cannot be reached or has given up."""


class StoreError(SppfeatError):
    """The feature file cannot be created, locked, opened, trusted or continued."""
