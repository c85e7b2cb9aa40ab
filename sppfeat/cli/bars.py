"""A progress bar on standard error, whatever that is: a terminal, a file, or gone."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppfeat.files.downloads import OnDownload

__all__ = ["StandardError", "download_bar", "open_bar"]

_SECONDS_BETWEEN_UPDATES = 0.1
_SECONDS_BETWEEN_LINES = 10.0  # where standard error is a file, each update is a line


class StandardError:
    """Standard error; where that is gone (a terminal that closed, a pipe nobody reads), nobody is told.

    A process that is started without one (``2>&-``) has None for it.
    """

    def write(self, text: str) -> None:
        """Write a text."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError):
                sys.stderr.write(text)

    def flush(self) -> None:
        """Write what is held back."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError):
                sys.stderr.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def open_bar(label: str, total: int | None, *, unit: str, shown: bool = True, scaled: bool = False) -> Any:
    """Return a bar of tqdm.

    Args:
        label: what is counted.
        total: how many; None where nobody knows.
        unit: of what.
        shown: False for no bar at all.
        scaled: whether numbers are shown in thousands and millions.
    """
    from tqdm import tqdm

    file = StandardError()
    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=scaled,
        disable=not shown,
        mininterval=_SECONDS_BETWEEN_UPDATES if file.isatty() else _SECONDS_BETWEEN_LINES,
        file=file,
    )


@contextlib.contextmanager
def download_bar() -> "Iterator[OnDownload]":
    """Yields a callback for downloads; it draws a bar for each file, from its first bytes to its last."""
    bars: dict[str, Any] = {}

    def on_download(name: str, done: int, total: int | None) -> None:
        if name not in bars:
            bars[name] = open_bar(name, total, unit="B", scaled=True)
        bars[name].update(done - bars[name].n)
        if done == total:
            bars.pop(name).close()

    try:
        yield on_download
    finally:
        for bar in bars.values():
            bar.close()
