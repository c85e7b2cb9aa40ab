"""Rows that something can be said of: those that have a descriptor."""

from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError
from sppfeat.store.selection import Selection

__all__ = ["check_described"]


def check_described(selection: Selection) -> None:
    """Refuse a selection with rows of images that failed or are pending, or of boxes without area.

    Raises:
        ConfigError: there are some; names the first.
    """
    without = selection.rows[~selection.file.has_descriptor()[selection.rows]]
    if len(without):
        raise ConfigError(
            f"{len(without)} of {counted(len(selection), 'row')} {'has' if len(without) == 1 else 'have'} no "
            f"descriptor, the first is row {without[0]}; allowed: rows of images that are done, and of "
            "boxes with an area"
        )
