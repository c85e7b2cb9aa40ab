"""What actors report of their parts, as it comes from Ray Data."""

import pickle
import queue
import threading
from collections.abc import Iterator
from typing import Any

from sppfeat.config.machine import import_extra
from sppfeat.errors import EngineError
from sppfeat.extraction.ray.actor import PartReport

__all__ = ["read_reports"]

_POLL_SECONDS = 0.5


def read_reports(dataset: Any) -> Iterator[PartReport | None]:
    """Yield what became of the parts, as it comes; None where nothing has come for a while.

    Raises:
        EngineError: Ray has given up.
    """
    found: queue.SimpleQueue[PartReport | BaseException | None] = queue.SimpleQueue()

    def consume() -> None:
        try:
            for row in dataset.iter_rows():
                found.put(pickle.loads(row["report"]))
            found.put(None)
        except BaseException as error:  # of whatever kind, it belongs to who waits
            found.put(error)

    threading.Thread(target=consume, name="sppfeat-ray", daemon=True).start()
    while True:
        try:
            report = found.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            yield None
            continue
        if report is None:
            return
        if isinstance(report, BaseException):
            raise _cause(report)
        yield report


def _cause(error: BaseException) -> BaseException:
    """What a user is told of an error that Ray raised: a defect of this program keeps its traceback."""
    exceptions = import_extra("ray.exceptions", extra="ray", purpose="--engine ray")
    if isinstance(error, exceptions.RayError) and not isinstance(error, exceptions.RayTaskError):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = EngineError(
            f"Ray has given up; the same command again continues: {' ... '.join(dict.fromkeys(lines[:1] + lines[-1:]))}"
        )
        told.__cause__ = error
        return told
    return error
