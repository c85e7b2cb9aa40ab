"""Progress bars of the commands."""

from functools import partial

from sppfeat.cli.groups import raise_if_dropped
from sppfeat.config import progress

__all__ = ["Bar", "download_bar"]


class Bar(progress.Bar):
    """A bar whose updates also raise a signal's KeyboardInterrupt again, if Python dropped it."""

    def move_to(self, n: int, total: int | None = None, *, label: str = "", note: str = "") -> None:
        """See :meth:`sppfeat.config.progress.Bar.move_to`."""
        raise_if_dropped()
        super().move_to(n, total, label=label, note=note)


download_bar = partial(progress.download_bar, Bar)
