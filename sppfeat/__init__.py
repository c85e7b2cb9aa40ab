"""CNN features of whole images and boxes: one forward pass, pooled over a spatial pyramid."""

from typing import TYPE_CHECKING, Any

from sppfeat._version import __version__

if TYPE_CHECKING:
    from sppfeat.extractor import Extractor
    from sppfeat.store.reader import open_features as open  # noqa: A004 - as in DESIGN: sppfeat.open(path)

__all__ = ["Extractor", "__version__", "open"]


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch or h5py: `sppfeat --help` and the decoding workers
    # need neither.
    if name == "Extractor":
        from sppfeat.extractor import Extractor

        return Extractor
    if name == "open":
        from sppfeat.store.reader import open_features

        return open_features
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
