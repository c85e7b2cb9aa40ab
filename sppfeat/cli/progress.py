"""The progress bar."""

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sppfeat.cli.bars import StandardError, download_bar, open_bar
from sppfeat.cli.signals import raise_if_dropped

if TYPE_CHECKING:
    from sppfeat.extraction.pipeline import Progress
    from sppfeat.files.downloads import OnDownload

__all__ = ["Bar", "prepared"]

_T = TypeVar("_T")


class Bar:
    """One bar on standard error; ``with`` closes it.

    Args:
        label: what is counted.
        total: how many.
        unit: of what.
        shown: False for no bar at all.
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
        """Leave the bar as it is."""
        self._bar.close()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.write(text, file=StandardError())

    def move_to(self, n: int, total: int | None = None, *, note: str = "") -> None:
        """Show ``n`` as done, of a new total if one is given, with a note behind it.

        Raises:
            KeyboardInterrupt: a signal has asked to stop; see :func:`sppfeat.cli.signals.raise_if_dropped`.
        """
        raise_if_dropped()
        if total is not None:
            self._bar.total = total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(n - self._bar.n)

    def show(self, progress: "Progress") -> None:
        """Show images done and failed, and where the time goes."""
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
    """What a context manager prepares from images, with a bar that is closed before anything is done with it.

    Args:
        prepare: makes the context manager; takes what it is to call with the number of images seen, and
            of all, and what it is to call while weights are downloaded.
        label: of the bar.
        shown: False for no bar at all.
    """
    with contextlib.ExitStack() as stack:
        with Bar(label, 0, unit="img", shown=shown) as bar, download_bar() as on_download:
            subject = stack.enter_context(prepare(bar.move_to, on_download))
        yield subject
