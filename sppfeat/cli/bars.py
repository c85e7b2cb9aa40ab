"""Progress bars on standard error, which may be a terminal, a file, or closed."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sppfeat.cli.groups import raise_if_dropped
from sppfeat.cli.output import STANDARD_ERROR

if TYPE_CHECKING:
    from sppfeat.extraction.pipeline import Progress
    from sppfeat.files.downloads import OnDownload

__all__ = ["Bar", "download_bar"]

_SECONDS_BETWEEN_UPDATES = 0.1
_SECONDS_BETWEEN_LINES = 10.0  # for files, in which each update is a line


class Bar:
    """A progress bar on standard error; ``with`` closes it.

    Its ``total`` is None or 0 if unknown; ``scaled`` shows numbers in thousands and millions.
    """

    def __init__(
        self, label: str, total: int | None, *, unit: str, shown: bool = True, scaled: bool = False
    ) -> None:
        from tqdm import tqdm

        seconds = _SECONDS_BETWEEN_UPDATES if STANDARD_ERROR.isatty() else _SECONDS_BETWEEN_LINES
        self._bar: Any = tqdm(
            total=total,
            desc=label,
            unit=unit,
            unit_scale=scaled,
            disable=not shown,
            mininterval=seconds,
            file=STANDARD_ERROR,
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the bar, even if it is not full."""
        self._bar.close()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text, file=STANDARD_ERROR)

    def move_to(self, n: int, total: int | None = None, *, note: str = "") -> None:
        """Shows ``n`` units as done, with a new total if one is given, and a note after the bar."""
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
        note = "decode {:.0f}%, net {:.0f}%, write {:.0f}%, failed {}".format(*shares, progress.n_failed)
        self.move_to(progress.n_done + progress.n_failed, note=note)


@contextlib.contextmanager
def download_bar() -> "Iterator[OnDownload]":
    """Yields a callback for downloads that shows a bar for each file."""
    with contextlib.ExitStack() as stack:
        bars: dict[str, Bar] = {}

        def on_download(name: str, done: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = stack.enter_context(Bar(name, total, unit="B", scaled=True))
            bars[name].move_to(done)
            if done == total:
                bars.pop(name).close()

        yield on_download
