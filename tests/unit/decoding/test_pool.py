"""Decoding in worker processes: the same pixels as in one process, even if workers die or hang."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sppfeat.decoding import Batch, DecoderPool, DecodeSettings, InlineDecoder
from sppfeat.decoding.arena import Arena
from sppfeat.errors import DecoderError

SETTINGS = DecodeSettings("apply", "bilinear")
INPUT_SIZES = [(24, 32), (16, 16), (7, 40)]
DAMAGED = {"text.jpg": b"no image", "empty.png": b"", "cut.png": None, "gone.jpg": None}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Paths and sizes of 40 images of noise, and of some that cannot be decoded."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    found = []
    for i in range(40):
        height, width = random.integers(5, 90, 2).tolist()
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = folder / (f"{i}.jpg" if i % 2 else f"{i}.png")
        Image.fromarray(pixels).save(path)
        found.append((os.fsencode(path), (height, width)))
    (folder / "cut.png").write_bytes((folder / "38.png").read_bytes()[:300])
    for name, content in DAMAGED.items():
        if content is not None:
            (folder / name).write_bytes(content)
        found.insert(random.integers(len(found)), (os.fsencode(folder / name), (10, 10)))
    found.append((found[0][0], (1, 1)))  # planned with another size
    return found


def tasks_of(images, batch_sizes, input_sizes=INPUT_SIZES):
    """Cut the images into batches; the numbers that name them are arbitrary."""
    tasks, first = [], 0
    for i, size in enumerate(batch_sizes):
        part = images[first : first + size]
        if part:
            names = [1000 - first - k for k in range(len(part))]
            paths, sizes = zip(*part, strict=True)
            tasks.append(Batch(names, paths, sizes, input_sizes[i % len(input_sizes)]))
        first += size
    return tasks


def decoded(decoder, tasks):
    return [(list(d.images), d.pixels.copy(), d.failures) for d in decoder.decode(tasks)]


def assert_same(one, other):
    assert len(one) == len(other)
    for (images, pixels, failures), (images2, pixels2, failures2) in zip(one, other, strict=True):
        assert images == images2
        assert list(failures.items()) == list(failures2.items())
        assert pixels.shape == pixels2.shape
        assert pixels.dtype == pixels2.dtype == np.uint8
        assert np.array_equal(pixels, pixels2)


@pytest.fixture
def open_pool():
    """Make pools; all of them are closed after the test."""
    pools = []

    def start(**options):
        options = {"n_workers": 2, **options}
        pools.append(DecoderPool(SETTINGS, **options))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


@pytest.fixture(scope="module")
def shared_pool():
    pool = DecoderPool(SETTINGS, n_workers=2, look_ahead_bytes=20_000)
    yield pool
    pool.close()


# --- the same as without processes ----------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_a_pool_decodes_what_one_process_decodes(images, shared_pool, batch_sizes):
    tasks = tasks_of(images, batch_sizes)
    assert_same(decoded(shared_pool, iter(tasks)), decoded(InlineDecoder(SETTINGS), tasks))


@pytest.mark.slow
def test_worker_processes_decode_fast_on_request(tmp_path):
    path = tmp_path / "large.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    task = Batch([0], [os.fsencode(path)], [(200, 300)], (24, 32))
    found = {}
    for decode in ("exact", "fast"):
        settings = SETTINGS._replace(decode=decode)
        pool = DecoderPool(settings, n_workers=1)
        try:
            found[decode] = decoded(pool, [task])
        finally:
            pool.close()
        assert_same(found[decode], decoded(InlineDecoder(settings), [task]))
    assert not np.array_equal(found["exact"][0][1], found["fast"][0][1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_workers", "look_ahead_bytes"), [(1, 1), (3, 1), (1, 10 * 24 * 32 * 3), (3, 1 << 20)]
)
def test_worker_counts_and_memory_change_nothing(images, open_pool, n_workers, look_ahead_bytes):
    """The smallest memory is below every batch, the next holds one of them, the last all."""
    tasks = tasks_of(images, [10, 3, 1, 10, 30], [(24, 32)])
    pool = open_pool(n_workers=n_workers, look_ahead_bytes=look_ahead_bytes)
    expected = decoded(InlineDecoder(SETTINGS), tasks)
    assert_same(decoded(pool, tasks), expected)
    assert_same(decoded(pool, reversed(tasks)), expected[::-1])
    assert sum(len(failures) for _, _, failures in expected) == len(DAMAGED) + 1


@pytest.mark.slow
def test_headers_are_read_in_order(images, shared_pool):
    paths = [path for path, _ in images] * 12  # more than are under way at a time
    expected = list(InlineDecoder(SETTINGS).probe(paths))
    assert sum(isinstance(answer, str) for answer in expected) == 12 * (len(DAMAGED) - 1)
    assert list(shared_pool.probe(iter(paths))) == expected


def test_headers_and_pixels_in_turns(images, shared_pool):
    tasks = tasks_of(images, [5] * 9)
    found, expected = [], decoded(InlineDecoder(SETTINGS), tasks)
    for batch in shared_pool.decode(tasks):
        found.append((list(batch.images), batch.pixels.copy(), batch.failures))
        assert list(shared_pool.probe([images[-2][0]])) == [images[-2][1]]
    assert_same(found, expected)


@pytest.mark.parametrize("kind", ["inline", "pool"])
def test_an_image_that_is_not_available_fails_with_the_reason_given(images, shared_pool, kind):
    decoder = InlineDecoder(SETTINGS) if kind == "inline" else shared_pool
    places, sizes = ["permission denied", images[-2][0]], [(9, 9), images[-2][1]]
    (batch,) = decoder.decode([Batch([4, 5], places, sizes, (8, 8))])
    assert (list(batch.images), batch.failures) == ([5], {4: "permission denied"})
    assert list(decoder.probe(places)) == ["permission denied", images[-2][1]]


def test_pixels_can_be_written_to(images, shared_pool):
    for batch in shared_pool.decode(tasks_of(images[:4], [4])):
        batch.pixels[:] = 0
        assert not batch.pixels.any()


def test_very_long_paths_block_nothing(images, shared_pool):
    """A binary file taken for a list gives paths of any length, but a pipe holds 200 kB."""
    paths = [b"x" * 4000] * 300 + [b"y" * 300_000] + [images[-2][0]]
    answers = list(shared_pool.probe(paths))
    assert all(isinstance(answer, str) for answer in answers[:-1])
    assert answers[-1] == images[-2][1]


@pytest.mark.slow
def test_a_caller_who_stops_early_can_go_on(images, open_pool):
    tasks = tasks_of(images, [5] * 9)
    pool = open_pool(look_ahead_bytes=100_000)
    for n_taken in (0, 1, 3):
        batches = pool.decode(tasks)
        for _ in range(n_taken):
            next(batches)
        batches.close()
    assert_same(decoded(pool, tasks), decoded(InlineDecoder(SETTINGS), tasks))


def test_an_error_in_the_tasks_reaches_the_caller(images, shared_pool):
    def broken():
        yield from tasks_of(images, [5, 5])
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(shared_pool.decode(broken()))
    assert_same(
        decoded(shared_pool, tasks_of(images, [9])), decoded(InlineDecoder(SETTINGS), tasks_of(images, [9]))
    )


# --- workers that are killed ----------------------------------------------------------------------


def workers_of(pool):
    return [worker.process.pid for worker in pool._workers]


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "has not happened"
        time.sleep(0.01)


def kill(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.slow
def test_workers_killed_while_they_work_lose_nothing(images, open_pool):
    tasks = tasks_of(images * 3, [4] * 40)
    pool = open_pool(look_ahead_bytes=30_000)
    found = []
    for i, batch in enumerate(pool.decode(tasks)):
        found.append((list(batch.images), batch.pixels.copy(), batch.failures))
        # Apart: an image whose worker dies again while it is retried alone would be given up.
        if i in (3, 10, 17, 24):
            for pid in workers_of(pool)[: 1 + i % 2]:
                os.kill(pid, signal.SIGKILL)
    assert_same(found, decoded(InlineDecoder(SETTINGS), tasks))


@pytest.mark.slow
def test_workers_killed_while_they_start_lose_nothing(images, open_pool):
    pool = open_pool()
    kill(workers_of(pool))
    tasks = tasks_of(images, [10] * 5)
    assert_same(decoded(pool, tasks), decoded(InlineDecoder(SETTINGS), tasks))


@pytest.mark.slow
def test_workers_killed_while_idle_lose_nothing_and_make_no_image_suspect(images, open_pool):
    pool = open_pool(n_workers=1)
    path, size = images[-2]
    for _ in range(4):  # the same image each time: it must not count as the one that killed them
        assert list(pool.probe([path])) == [size]
        kill(workers_of(pool))
    assert list(pool.probe([path])) == [size]


def test_workers_that_are_always_killed_at_their_start_are_an_error(images, open_pool, tmp_path, monkeypatch):
    hook(tmp_path, monkeypatch, "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(DecoderError, match="did not start"):
        list(open_pool().probe([images[0][0]]))


def test_workers_that_cannot_start_are_an_error(images, open_pool, tmp_path, monkeypatch, capfd):
    hook(tmp_path, monkeypatch, "sys.modules['PIL'] = None")
    with pytest.raises(DecoderError, match=r"did not start \(exit status 1\); see above"):
        list(open_pool(n_workers=1).probe([images[0][0]]))
    assert "PIL" in capfd.readouterr().err


# --- images that kill or hang their worker --------------------------------------------------------


def hook(folder, monkeypatch, code):
    """Let every Python process started from now on run some code first."""
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(f"import os, signal, sys, time\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(hooks))


def hook_decoding(folder, monkeypatch, code):
    """Let workers run some code on each image that they open with Pillow, the ``name`` of its file at hand."""
    body = textwrap.indent(textwrap.dedent(code), " " * 8)
    hook(
        folder,
        monkeypatch,
        f"""
import PIL.Image
true_open = PIL.Image.open
def open_(file, *args, **options):
    name = os.path.basename(os.fsdecode(file.name))
    if 'sppfeat.decoding.worker' in sys.modules:
{body}
    return true_open(file, *args, **options)
PIL.Image.open = open_
""",
    )


BAD = ("7.jpg", "20.png")


@pytest.fixture
def expected_without_bad(images):
    """The images that remain when some crash their worker."""
    good = [(path, size) for path, size in images if os.path.basename(os.fsdecode(path)) not in BAD]
    (batch,) = decoded(InlineDecoder(SETTINGS), tasks_of(good, [len(good)]))
    return batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("if name in {bad}: os.abort()", "the decoder died of it, twice (signal 6)"),
        ("if name in {bad}: os._exit(3)", "the decoder died of it, twice (exit status 3)"),
        ("if name in {bad}: time.sleep(1000)", "decoding took more than 1 s"),
    ],
)
def test_an_image_that_kills_or_hangs_its_worker_costs_itself_only(
    images, open_pool, tmp_path, monkeypatch, expected_without_bad, code, reason
):
    hook_decoding(tmp_path, monkeypatch, code.format(bad=BAD))
    pool = open_pool(hang_seconds=1.0 if "sleep" in code else 60.0)
    (batch,) = decoded(pool, tasks_of(images, [len(images)]))
    _, expected_pixels, expected_failures = expected_without_bad
    names = {1000 - i: os.path.basename(os.fsdecode(path)) for i, (path, _) in enumerate(images)}
    by_name = {}
    for image, text in batch[2].items():
        by_name.setdefault(text, []).append(names[image])
    assert sorted(by_name.pop(reason)) == sorted(BAD)
    assert sorted(by_name) == sorted(set(expected_failures.values()))
    assert np.array_equal(batch[1], expected_pixels)
    assert [name for name in batch[0] if names[name] in BAD] == []


def test_a_header_that_kills_its_worker_costs_itself_only(images, open_pool, tmp_path, monkeypatch):
    hook_decoding(tmp_path, monkeypatch, f"if name in {BAD}: os.abort()")
    paths = [path for path, _ in images]
    pairs = zip(paths, open_pool().probe(paths), InlineDecoder(SETTINGS).probe(paths), strict=True)
    changed = {os.path.basename(os.fsdecode(path)): found for path, found, size in pairs if found != size}
    assert changed == dict.fromkeys(BAD, "the decoder died of it, twice (signal 6)")


@pytest.mark.slow
def test_an_image_that_kills_its_worker_once_is_decoded(images, open_pool, tmp_path, monkeypatch):
    mark = tmp_path / "once"
    hook_decoding(
        tmp_path,
        monkeypatch,
        f"""
        if name in {BAD} and not os.path.exists({str(mark)!r} + name):
            open({str(mark)!r} + name, "w").close()
            os.abort()
        """,
    )
    tasks = tasks_of(images, [10] * 5)
    assert_same(decoded(open_pool(), tasks), decoded(InlineDecoder(SETTINGS), tasks))
    assert len(list(tmp_path.glob("once*"))) == len(BAD)


@pytest.mark.slow
def test_a_caller_who_takes_long_makes_no_image_fail(images, open_pool, tmp_path, monkeypatch):
    """Only the time spent waiting for the worker counts, so a suspended run loses no image either."""
    hook_decoding(tmp_path, monkeypatch, "time.sleep(0.02)")
    tasks = tasks_of(images, [4] * 12)
    found = []
    for batch in open_pool(look_ahead_bytes=30_000, hang_seconds=0.6).decode(tasks):
        found.append((list(batch.images), batch.pixels.copy(), batch.failures))
        if len(found) in (2, 5):
            time.sleep(0.9)
    assert_same(found, decoded(InlineDecoder(SETTINGS), tasks))


@pytest.mark.slow
def test_a_defect_in_the_worker_keeps_its_traceback(images, open_pool, tmp_path, monkeypatch):
    hook(
        tmp_path,
        monkeypatch,
        """
import sppfeat.decoding.decoder
def broken(*args, **options):
    raise ZeroDivisionError("a defect")
sppfeat.decoding.decoder.probe_image = broken
""",
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], *filter(None, sys.path)]))
    with pytest.raises(
        RuntimeError, match=r"(?s)a defect in the decoding worker.*ZeroDivisionError: a defect"
    ):
        list(open_pool().probe([images[0][0]]))


# --- processes and descriptors --------------------------------------------------------------------


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def children():
    own = str(os.getpid())
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == own:
            found.append(stat.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_closed_pool_leaves_nothing_behind(images):
    before, family = descriptors(), children()
    for n_batches in (0, 2, 9):
        pool = DecoderPool(SETTINGS, n_workers=2, look_ahead_bytes=20_000)
        batches = pool.decode(tasks_of(images, [5] * 9))
        for _ in range(n_batches):
            next(batches)
        if n_batches == 2:
            kill(workers_of(pool)[:1])
            next(batches)
        assert len(children()) == len(family) + 2
        pool.close()
        pool.close()
        del pool, batches
    assert descriptors() == before
    assert children() == family


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_pool_that_cannot_start_leaves_nothing_behind(monkeypatch):
    before, family = descriptors(), children()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(DecoderError, match="no decoding worker could be started: No such file"):
        DecoderPool(SETTINGS, n_workers=2)
    assert descriptors() == before
    assert children() == family


@pytest.mark.slow
def test_workers_take_no_signal_that_is_for_their_parent(images, open_pool):
    pool = open_pool()
    before = workers_of(pool)
    paths = [path for path, _ in images[:6]]
    expected = list(InlineDecoder(SETTINGS).probe(paths))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) * 3:
        for pid in before:
            os.kill(pid, number)
        assert list(pool.probe(paths)) == expected, number
        assert workers_of(pool) == before, number


PARENT = """
import sys, time
from sppfeat.decoding import DecoderPool, DecodeSettings
pool = DecoderPool(DecodeSettings("apply", "bilinear"), n_workers=2)
if sys.argv[1] == "busy":
    list(pool.probe([b"gone.jpg"] * 50))
print(*(worker.process.pid for worker in pool._workers), flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("state", ["starting", "busy"])
def test_workers_end_when_their_parent_is_killed(state):
    with subprocess.Popen([sys.executable, "-c", PARENT, state], stdout=subprocess.PIPE) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(is_running(pid) for pid in pids)
        parent.kill()
    assert len(pids) == 2
    wait_until(lambda: not any(is_running(pid) for pid in pids))


# --- memory ---------------------------------------------------------------------------------------

SIZES = st.integers(1, 40)


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=60))
def test_pieces_of_the_arena_never_overlap_and_come_back(steps):
    arena = Arena(100)
    taken = []
    for nbytes, give_back in steps:
        if give_back and taken:
            arena.free(*taken.pop(nbytes % len(taken)))
        elif (offset := arena.allocate(nbytes)) is not None:
            assert 0 <= offset <= 100 - nbytes
            assert all(offset + nbytes <= start or start + n <= offset for start, n in taken)
            taken.append((offset, nbytes))
    for piece in taken:
        arena.free(*piece)
    assert arena.allocate(100) == 0
    assert arena.allocate(1) is None
    arena.close()


@pytest.mark.slow
def test_decoding_much_takes_no_more_memory_than_it_was_given(tmp_path, open_pool):
    path = tmp_path / "a.png"
    Image.new("RGB", (10, 10)).save(path)

    def task(side):
        return Batch([0], [os.fsencode(path)], [(10, 10)], (side, side))

    pool = open_pool(look_ahead_bytes=1_000_000)
    assert sum(1 for _ in pool.decode([task(300)] * 20)) == 20
    assert os.fstat(pool._arena.fd).st_size == 1_000_000
    assert sum(1 for _ in pool.decode([task(300), task(700), task(300)])) == 3
    assert os.fstat(pool._arena.fd).st_size == 3 * 700 * 700  # the one that is larger gets what it needs


@pytest.mark.slow
def test_decoding_looks_ahead_by_a_bounded_number_of_images(images, open_pool):
    """The notes on each image take memory, however small the images are."""
    path, image_hw = images[0]
    pool = open_pool(n_workers=2)
    for n_images, batch_size in ((400, 1), (420, 7), (1200, 200)):
        taken = given = 0

        def tasks(n_images=n_images, batch_size=batch_size):
            nonlocal taken
            for _ in range(n_images // batch_size):
                taken += batch_size
                yield Batch([0] * batch_size, [path] * batch_size, [image_hw] * batch_size, (4, 4))

        for batch in pool.decode(tasks()):
            given += len(batch.images)
            assert taken - given <= 2 * 64 + 2 * batch_size
        assert given == taken == n_images
