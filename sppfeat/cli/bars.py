"""Progress bars on standard error, which may be a terminal, a file, or closed."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sppfeat.cli.signals import raise_if_dropped

if TYPE_CHECKING:
    from sppfeat.extraction.pipeline import Progress
    from sppfeat.files.downloads import OnDownload

__all__ = ["Bar", "StandardError", "download_bar", "open_bar", "prepared"]

_T = TypeVar("_T")

_SECONDS_BETWEEN_UPDATES = 0.1
_SECONDS_BETWEEN_LINES = 10.0  # for files, in which each update is a line


class StandardError:
    """Standard error as a file object that never fails; text for a closed terminal or a broken pipe is dropped.

    ``sys.stderr`` is None in a process that was started without standard error (``2>&-``).
    """

    def write(self, text: str) -> None:
        """Writes text, or drops it."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError):
                sys.stderr.write(text)

    def flush(self) -> None:
        """Flushes buffered text, or drops it."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError):
                sys.stderr.flush()

    def isatty(self) -> bool:
        """True if standard error is a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def open_bar(label: str, total: int | None, *, unit: str, shown: bool = True, scaled: bool = False) -> Any:
    """Opens a tqdm progress bar on standard error.

    Args:
        label: text in front of the bar.
        total: number of units at the end; None if unknown.
        unit: name of the units.
        shown: False to show no bar.
        scaled: show numbers in thousands and millions.
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
    """Yields a callback for downloads that shows a bar for each file."""
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


class Bar:
    """A progress bar on standard error; ``with`` closes it.

    Args:
        label: text in front of the bar.
        total: number of units at the end.
        unit: name of the units.
        shown: False to show no bar.
    """

    def __init__(self, label: str, total: int, *, unit: str, shown: bool) -> None:
        self._bar: Any = open_bar(label, total, unit=unit, shown=shown)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the bar, even if it is not full."""
        self._bar.close()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text, file=StandardError())

    def move_to(self, n: int, total: int | None = None, *, note: str = "") -> None:
        """Shows ``n`` units as done, with a new total if one is given, and a note after the bar.

        Raises:
            KeyboardInterrupt: a signal asked to stop; see :func:`sppfeat.cli.signals.raise_if_dropped`.
        """
        raise_if_dropped()
        if total is not None:
            self._bar.total = total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(n - self._bar.n)

    def show(self, progress: "Progress") -> None:
        """Shows images done and failed, and the shares of time spent on decoding, network and writing."""
        seconds = (progress.decode_seconds, progress.network_seconds, progress.write_seconds)
        shares = [100 * part / max(sum(seconds), 1e-9) for part in seconds]
        self._bar.set_postfix_str(
            f"decode {shares[0]:.0f}%, net {shares[1]:.0f}%, write {shares[2]:.0f}%, failed {progress.n_failed}",
            refresh=False,
        )
        self.move_to(progress.n_done + progress.n_failed)


@contextlib.contextmanager
def prepared(
    prepare: "Callable[[Callable[[int, int], None], OnDownload], contextlib.AbstractContextManager[_T]]",
    label: str,
    *,
    shown: bool,
) -> Iterator[_T]:
    """Enters a context whose preparation reads images, and shows a bar until it is entered.

    Args:
        prepare: makes the context manager from two callbacks: the first takes the number of images read and the total,
            the second reports downloads of weights.
        label: text in front of the bar.
        shown: False to show no bar.
    """
    with contextlib.ExitStack() as stack:
        with Bar(label, 0, unit="img", shown=shown) as bar, download_bar() as on_download:
            subject = stack.enter_context(prepare(bar.move_to, on_download))
        yield subject
