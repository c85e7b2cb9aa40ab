"""Progress bars of the commands."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sppfeat.cli.groups import raise_if_dropped
from sppfeat.config.progress import Bar as _Bar

if TYPE_CHECKING:
    from sppfeat.extraction.pipeline import Progress
    from sppfeat.files.downloads import OnDownload

__all__ = ["Bar", "download_bar"]


class Bar(_Bar):
    """A bar whose updates also raise a signal's KeyboardInterrupt again, if Python dropped it."""

    def move_to(self, n: int, total: int | None = None, *, label: str = "", note: str = "") -> None:
        """See :meth:`sppfeat.config.progress.Bar.move_to`."""
        raise_if_dropped()
        super().move_to(n, total, label=label, note=note)

    def show(self, progress: "Progress") -> None:
        """Shows the images that are done, and how many have failed if any has."""
        note = f"{progress.n_failed} failed" if progress.n_failed else ""
        self.move_to(progress.n_done + progress.n_failed, note=note)


@contextlib.contextmanager
def download_bar() -> "Iterator[OnDownload]":
    """Yields a callback for downloads that shows a bar for each file."""
    with contextlib.ExitStack() as stack:
        bars: dict[str, Bar] = {}

        def on_download(name: str, done: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = stack.enter_context(Bar(name, total, unit="B"))
            bars[name].move_to(done)
            if done == total:
                bars.pop(name).close()

        yield on_download
