"""Progress on standard error: a bar on a terminal or in a notebook, and now and then a line anywhere else.

The command line and :class:`sppfeat.extractor.Extractor` show their work with it; other code takes a callback.
"""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sppfeat.config.wording import counted, human_bytes, human_seconds, one_line

__all__ = ["STANDARD_ERROR", "Bar", "download_bar"]

_SECONDS_BETWEEN_UPDATES = 0.1
_SECONDS_BETWEEN_LINES = 30.0  # where each update is a line of a log
_LONGEST_LABEL = 30  # such as the name of a downloaded file


_T = TypeVar("_T", bound="Bar")


class _StandardError:
    """Standard error as a file that never fails; text for a closed terminal or a broken pipe is dropped.

    ``sys.stderr`` is None in a process that was started without standard error (``2>&-``).
    """

    encoding = property(lambda self: getattr(sys.stderr, "encoding", "ascii"))

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()

    def fileno(self) -> int:
        return sys.stderr.fileno()


STANDARD_ERROR = _StandardError()
"""The file of all progress bars: tqdm clears those of a file before it writes a line there."""


class Bar:
    """The progress of one task; ``with`` closes it.

    Args:
        label: the task, such as ``extracting``.
        total: number of units; None or 0 if unknown.
        unit: one unit, such as ``image``; ``B`` for bytes; empty if units differ from label to label.
        shown: False to show nothing.
    """

    def __init__(self, label: str, total: int | None, *, unit: str, shown: bool = True) -> None:
        self._bar: _Drawn | _Lines | None = None
        if shown:
            is_drawn = STANDARD_ERROR.isatty() or _is_notebook()
            self._bar = (_Drawn if is_drawn else _Lines)(label, total or None, unit)

    def __enter__(self: _T) -> _T:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()

    def move_to(self, n: int, total: int | None = None, *, label: str = "", note: str = "") -> None:
        """Shows ``n`` units as done, with a new total or label if one is given, and a note after the figures."""
        if self._bar is not None:
            self._bar.move_to(n, total, label, note)


@contextlib.contextmanager
def download_bar(bar_class: type[Bar] = Bar) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yields a callback for downloads that shows a bar for each file; it takes name, bytes done, and bytes in total."""
    with contextlib.ExitStack() as stack:
        bars: dict[str, Bar] = {}

        def on_download(name: str, done: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = stack.enter_context(bar_class(name, total, unit="B"))
            bars[name].move_to(done)
            if done == total:
                bars.pop(name).close()

        yield on_download


class _Drawn:
    """A bar that is redrawn in place, by tqdm."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        if _is_notebook():
            from tqdm.notebook import tqdm
        else:
            from tqdm import tqdm
        is_bytes = unit == "B"
        self._bar: Any = tqdm(
            total=total,
            desc=one_line(label, longest=_LONGEST_LABEL),
            unit=unit if is_bytes or not unit else f" {_plural(unit)}",
            unit_scale=is_bytes,
            mininterval=_SECONDS_BETWEEN_UPDATES,
            dynamic_ncols=True,  # by default tqdm asks for the width of sys.stderr only
            leave=False,
            bar_format="{desc} ..." if total is None else None,
            file=STANDARD_ERROR,
        )

    def close(self) -> None:
        self._bar.close()

    def move_to(self, n: int, total: int | None, label: str, note: str) -> None:
        bar = self._bar
        bar.bar_format = None
        if total is not None:
            bar.total = total
        if label and label != bar.desc.removesuffix(": "):
            bar.set_description(label, refresh=False)
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update(n - bar.n)


class _Lines:
    """A line of plain text every half minute, for logs; a short task prints none."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._first = 0
        self._started = self._last = time.monotonic()

    def close(self) -> None:
        pass

    def move_to(self, n: int, total: int | None, label: str, note: str) -> None:
        now = time.monotonic()
        if label and label != self._label:
            self._label, self._first, self._started = label, n, now
        self._total = total or self._total
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            print(self._line(n, now - self._started, note), file=STANDARD_ERROR)

    def _line(self, n: int, seconds: float, note: str) -> str:
        """Formats the state, such as ``extracting: 1200 of 5000 images (25 images/s, 2 min left)``."""
        rate = (n - self._first) / seconds if seconds else 0.0
        if self._unit == "B":
            done, total, speed = human_bytes(n), human_bytes(self._total or 0), human_bytes(round(rate))
        else:
            units = f" {_plural(self._unit)}".rstrip()
            done, total, speed = str(n), f"{self._total}{units}", f"{rate:.3g}{units}"
            done += "" if self._total else units
        facts = [f"{speed}/s"]
        if self._total and rate:
            facts.append(f"{human_seconds(max(0, self._total - n) / rate, digits=0)} left")
        state = f"{done} of {total}" if self._total else done
        return f"{self._label}: {state} ({', '.join([*facts, *filter(None, [note])])})"


def _plural(unit: str) -> str:
    return counted(2, unit).partition(" ")[2] if unit else ""


def _is_notebook() -> bool:
    """Returns True in a Jupyter kernel whose notebook can show widgets."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel") and importlib.util.find_spec("ipywidgets") is not None
