import threading

import numpy as np
import pytest

from sppfeat.decoding import Batch
from sppfeat.extraction import row_sink
from sppfeat.extraction.row_sink import Rows, SinkThread


class Record:
    """A sink that notes what it is asked, and by which thread; it can be held up, or fail."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.calls: list[tuple] = []
        self.threads: set[int] = set()
        self.fails_at = fails_at
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def _note(self, *call) -> None:
        assert self.may_go_on.wait(10)
        self.threads.add(threading.get_ident())
        if len(self.calls) == self.fails_at:
            raise OSError("disk full")
        self.calls.append(call)

    def write_rows(self, rows):
        self._note("rows", *rows.rows.tolist(), rows.descriptors[:, 0].tolist())

    def mark_done(self, image):
        self._note("done", image)

    def mark_failed(self, image, reason):
        self._note("failed", image, reason)


def block(image: int, value: float = 1.0, *, length: int = 2, **settings) -> Rows:
    return Rows(image, np.array([image]), np.full((1, length), value, dtype=np.float32), **settings)


def batch(*images: int, last: bool = True) -> Batch:
    return Batch(images, (), (), (4, 4), 0, [last] * len(images))


def thread_to(sink: Record) -> SinkThread:
    return SinkThread(sink, dtype="float32", nonfinite="fail")


def test_rows_then_marks_in_order_by_one_other_thread():
    sink = Record()
    with thread_to(sink) as thread:
        for images in ((0, 1), (2,)):
            for image in images:
                thread.add(block(image, image + 0.5))
            failed = {7: "damaged"} if images == (2,) else {}
            thread.end_batch(batch(*images, *failed), failed)
        thread.finish()
        assert (thread.n_done, thread.n_failed) == (3, 1)
    rows = [("rows", 0, [0.5]), ("rows", 1, [1.5]), ("done", 0), ("done", 1), ("rows", 2, [2.5])]
    assert sink.calls == [*rows, ("done", 2), ("failed", 7, "damaged")]
    assert len(sink.threads) == 1
    assert threading.get_ident() not in sink.threads


def test_values_are_read_once_they_have_arrived():
    sink, late = Record(), block(0, 0.0)

    def arrive() -> None:
        late.descriptors[:] = 3.0

    with thread_to(sink) as thread:
        thread.add(late._replace(wait=arrive))
        thread.end_batch(batch(0), {})
        thread.finish()
    assert sink.calls == [("rows", 0, [3.0]), ("done", 0)]


def test_nothing_is_handed_over_after_an_error_and_the_error_comes_out():
    sink = Record(fails_at=1)

    def write() -> None:
        with thread_to(sink) as thread:
            for image in range(5):
                thread.add(block(image))
                thread.end_batch(batch(image), {})
            thread.finish()

    with pytest.raises(OSError, match="disk full"):
        write()
    assert sink.calls == [("rows", 0, [1.0])]


def test_batches_that_have_ended_are_handed_over_when_the_caller_fails_and_no_others():
    """Otherwise a second signal would cost work that was done."""
    sink = Record()
    sink.may_go_on.clear()

    def write() -> None:
        with thread_to(sink) as thread:
            for image in range(5):
                thread.add(block(image))
                thread.end_batch(batch(image), {})
            thread.add(block(5))
            threading.Timer(0.2, sink.may_go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert sink.calls == [call for i in range(5) for call in (("rows", i, [1.0]), ("done", i))]


def test_no_more_than_so_much_is_on_its_way(monkeypatch):
    monkeypatch.setattr(row_sink, "_NBYTES_AHEAD", 10_000)
    monkeypatch.setattr(row_sink, "_TASK_NBYTES", 1)
    sink = Record()
    sink.may_go_on.clear()
    added = []

    def produce() -> None:
        with thread_to(sink) as thread:
            for image in range(10):
                thread.add(block(image, length=1000))  # 4000 bytes
                added.append(image)
            thread.finish()

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join(0.5)
    assert added == [0, 1]
    sink.may_go_on.set()
    producer.join(10)
    assert len(sink.calls) == len(added) == 10


def test_an_image_of_several_batches_is_marked_once_with_the_first_reason():
    sink = Record()
    with thread_to(sink) as thread:
        thread.end_batch(batch(3, last=False), {3: "first"})
        thread.add(block(3))
        thread.end_batch(batch(3), {3: "second"})
        thread.finish()
    assert sink.calls == [("failed", 3, "first")]
