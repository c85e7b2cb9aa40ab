"""The pipeline alone: batches too large for memory, images that fail, values that cannot be stored, order of rows."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from feature_files import plan_of
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.decoding import Batch, Decoded
from sppfeat.errors import DeviceMemoryError
from sppfeat.extraction import pipeline
from sppfeat.extraction.pipeline import Rows, _SinkThread, run_pipeline

N = 12


class Pixels:
    """A decoder without files: every pixel of image ``i`` is ``i``; some fail."""

    def __init__(self, failing: Iterable[int] = ()) -> None:
        self.failing = set(failing)

    def decode(self, tasks: Iterable[Batch]) -> Iterator[Decoded]:
        for task in tasks:
            good = [i for i in task.images if i not in self.failing]
            pixels = np.empty((len(good), *task.input_hw, 3), dtype=np.uint8)
            pixels[:] = np.array(good, dtype=np.uint8).reshape(-1, 1, 1, 1)
            yield Decoded(task, good, pixels, {i: "damaged" for i in task.images if i in self.failing})


class Device:
    """Describes an image by its pixel value, with memory for ``room`` pixels; records the shapes of its batches."""

    def __init__(self, room: float = np.inf, values=None) -> None:
        self.room = room
        self.values = values or {}
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, images, pixels, scale):
        self.asked.append(pixels.shape[:3])
        if np.prod(pixels.shape[:3]) > self.room:
            raise DeviceMemoryError("not enough memory on cuda:0")
        for i, image in enumerate(images):
            value = self.values.get(image, pixels[i, 0, 0, 0])
            yield Rows(image, np.array([image]), np.array([[value, 1]], dtype=np.float32))


class Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.rows: dict[int, list[float]] = {}
        self.done: list[int] = []
        self.failed: dict[int, str] = {}

    def write_rows(self, rows, descriptors, regions):
        assert regions is None
        self.rows.update(zip(rows.tolist(), descriptors.tolist(), strict=True))

    def mark_done(self, image):
        assert image in self.rows
        self.done.append(image)

    def mark_failed(self, image, reason):
        self.failed[image] = reason


def run(device, *, failing=(), sink=None, sizes=None, batch_size=5, **options):
    sink = sink or Kept()
    plan = plan_of([f"{i}.jpg" for i in range(N)], sizes=sizes or [[4, 6]] * N)
    plan = dataclasses.replace(plan, input_hw=plan.image_hw[:, None])
    progress = run_pipeline(
        plan,
        np.arange(N),
        batch_size=batch_size,
        batch_pixels=1,
        find_places=lambda images: [b""] * len(images),
        decoder=Pixels(failing),
        describe=device,
        sink=sink,
        **options,
    )
    assert progress.n_done + progress.n_failed == len(sink.done) + len(sink.failed)
    return sink


@given(
    room=st.integers(24, 24 * N),
    failing=st.sets(st.integers(0, N - 1)),
    batch_size=st.integers(1, N),
    tall=st.sets(st.integers(0, N - 1)),
)
def test_batches_too_large_for_device_memory_are_split(room, failing, batch_size, tall):
    sizes = [[8, 3] if i in tall else [4, 6] for i in range(N)]
    sink = run(Device(room), failing=failing, batch_size=batch_size, sizes=sizes)
    assert sink.rows == {i: [i, 1] for i in range(N) if i not in failing}
    assert sorted(sink.done) == sorted(set(range(N)) - failing)
    assert sink.failed == dict.fromkeys(failing, "damaged")


def test_the_size_that_fits_is_remembered():
    device = Device(room=24 * 3)
    run(device, batch_size=12)
    assert [n for n, _, _ in device.asked] == [12, 6, 3, 3, 6, 3, 3]
    device = Device(room=24 * 3)
    run(device, batch_size=6)
    assert [n for n, _, _ in device.asked] == [6, 3, 3, 3, 3]


def test_an_image_that_is_too_large_by_itself_fails_with_a_reason():
    sizes = [[40, 60] if i in (3, 7) else [4, 6] for i in range(N)]
    sink = run(Device(room=100), sizes=sizes)
    assert sorted(sink.done) == [i for i in range(N) if i not in (3, 7)]
    assert set(sink.failed) == {3, 7}
    for reason in sink.failed.values():
        assert reason.startswith(
            "not enough memory on cuda:0 for this image alone (network input 40 x 60, height x width)"
        )
        assert "--max-pixels" in reason


def test_a_decoding_failure_is_not_hidden_by_a_lack_of_memory():
    sink = run(Device(room=1), failing=[2])
    assert sink.failed.pop(2) == "damaged"
    assert len(sink.failed) == N - 1


@pytest.mark.parametrize(("value", "said"), [(np.nan, "1 of 2 values"), (1e6, "but float16 at most 65504")])
def test_values_that_cannot_be_stored_fail_or_are_kept(value, said):
    device = Device(values={4: value})
    sink = run(device, dtype="float16")
    assert set(sink.failed) == {4}
    assert said in sink.failed[4]
    assert 4 not in sink.rows
    kept = run(device, dtype="float16", nonfinite="keep")
    assert not kept.failed
    assert np.array_equal(kept.rows[4], [value, 1], equal_nan=True)


class Record:
    """A sink that records its calls and their threads; it can be blocked, or fail."""

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

    def write_rows(self, rows, descriptors, regions):
        self._note("rows", *rows.tolist(), descriptors[:, 0].tolist())

    def mark_done(self, image):
        self._note("done", image)

    def mark_failed(self, image, reason):
        self._note("failed", image, reason)


def block(image: int, value: float = 1.0, *, length: int = 2, **settings) -> Rows:
    return Rows(image, np.array([image]), np.full((1, length), value, dtype=np.float32), **settings)


def batch(*images: int, last: bool = True) -> Batch:
    return Batch(images, (), (), (4, 4), 0, [last] * len(images))


def thread_to(sink: Record) -> contextlib.closing[_SinkThread]:
    return contextlib.closing(_SinkThread(sink, dtype="float32", nonfinite="fail"))


def test_one_other_thread_writes_rows_then_marks_in_order():
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


def test_values_are_read_after_they_have_arrived():
    sink, late = Record(), block(0, 0.0)

    def arrive() -> None:
        late.descriptors[:] = 3.0

    with thread_to(sink) as thread:
        thread.add(late._replace(wait=arrive))
        thread.end_batch(batch(0), {})
        thread.finish()
    assert sink.calls == [("rows", 0, [3.0]), ("done", 0)]


def test_an_error_of_the_sink_is_raised_and_nothing_follows_it():
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


def test_only_finished_batches_reach_the_sink_when_the_caller_fails():
    """Otherwise a second signal would lose finished work."""
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


def test_bytes_waiting_for_the_sink_are_limited(monkeypatch):
    monkeypatch.setattr(pipeline, "_NBYTES_AHEAD", 10_000)
    monkeypatch.setattr(pipeline, "_TASK_NBYTES", 1)
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
