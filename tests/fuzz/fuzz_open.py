"""Coverage-guided search for feature files that bring ``sppfeat`` down; not a part of the test suite.

An input chooses one of two good files, and what is changed in it: attributes and datasets by HDF5 itself, then
bytes. The file goes through everything that reads: all properties, ``info`` in both forms, and ``verify``. Any
exception but StoreError is a finding, and so is a control character in what is printed.

Batches run in a child process each, so that a crash, a hang or a hunger for memory in HDF5 itself ends only
that: the file at hand is kept as ``crash-<n>.h5`` and told apart from findings in Python, ``finding-<n>.h5``.

How to run it (``pip install atheris``)::

    python tests/fuzz/fuzz_open.py FOLDER --seconds 600             # guided by coverage
    python tests/fuzz/fuzz_open.py FOLDER --seconds 600 --random    # without atheris, faster, unguided

FOLDER keeps the corpus, the findings and ``counts.json``; a second run goes on from there.
"""

import argparse
import contextlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

SUPPORT = Path(__file__).resolve().parents[1] / "support"
_BATCH = 2000  # inputs per child process
_SECONDS_PER_INPUT = 20
_MEMORY = 6 << 30  # of address space; torch is not loaded
_ODD_NUMBERS = (0, 1, 2, 3, 7, 127, 255, -1, -2, 2**31 - 1, 2**32, 2**63 - 1, -(2**63))
_ODD_TEXTS = (
    "",
    "a",
    "cat",
    "a\n\x1b[2J",
    "/x",
    "x" * 5000,
    "[" * 5000,
    "9" * 5000,
    "{}",
    "null",
    '"1"',
    "1e999",
)
_KINDS = ("<i8", "<i4", ">i8", "|u1", "<f8", "<f4", "<f2", ">f4", "S3", "S200", "text")


class Choices:
    """Numbers drawn from the bytes of an input; zeros when they are used up."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def number(self, n: int) -> int:
        """Return a number below ``n``."""
        size = 1 if n <= 256 else 4
        part = self._content[self._at : self._at + size]
        self._at += size
        return int.from_bytes(part, "little") % n

    def take(self, n: int) -> bytes:
        """Return the next bytes."""
        part = self._content[self._at : self._at + n]
        self._at += n
        return part

    def one_of(self, values):
        """Return one of the values."""
        return values[self.number(len(values))]

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return max(0, len(self._content) - self._at)


def write_hostile(path: Path, pristine: list[bytes], content: bytes) -> None:
    """Write the file that an input describes."""
    import h5py

    choices = Choices(content)
    path.unlink(missing_ok=True)
    path.write_bytes(choices.one_of(pristine))
    with contextlib.suppress(Exception), h5py.File(path, "r+") as opened:
        for _ in range(choices.number(4)):
            with contextlib.suppress(Exception):
                _change(opened, choices)
    if choices.number(2) and choices.left:
        changed = bytearray(path.read_bytes())
        while choices.left:
            at = choices.number(len(changed))
            how = choices.number(5)
            if how < 3:
                new = choices.take(1 + choices.number(8))
            else:
                new = (choices.one_of(_ODD_NUMBERS) % 2**64).to_bytes(8, "little")
            changed[at : at + len(new)] = new
        if choices.number(8) == 1:
            del changed[choices.number(len(changed)) :]
        path.write_bytes(changed)


def _change(opened, choices: Choices) -> None:
    """Change one thing with HDF5."""
    import h5py

    names = []
    opened.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    how = choices.number(9)
    if how < 2:
        _change_attribute(opened, choices)
    elif how == 2:
        name, target = choices.one_of(names), choices.one_of([*names, "images", "/", "nowhere"])
        del opened[name]
        link = choices.number(3)
        if link == 0:
            opened[name] = opened[target]
        else:
            opened[name] = h5py.SoftLink(target) if link == 1 else h5py.ExternalLink("other.h5", target)
    elif how < 6:
        dataset = opened[choices.one_of(names)]
        _set_values(dataset, choices)
    else:
        _replace_dataset(opened, choices.one_of(names), choices)


def _change_attribute(opened, choices: Choices) -> None:
    import h5py

    name = choices.one_of([*opened.attrs, "norm_factors", "boxes_path"])
    how = choices.number(6)
    if how == 0:
        del opened.attrs[name]
    elif how == 1:
        opened.attrs[name] = choices.one_of(_ODD_NUMBERS[:-3])
    elif how == 2:
        opened.attrs.create(name, choices.one_of(_ODD_TEXTS), dtype=h5py.string_dtype())
    elif how == 3:
        opened.attrs[name] = h5py.Empty(choices.one_of(("S3", "<i8", "<f4")))
    else:
        _change_config(opened, choices)


def _change_config(opened, choices: Choices) -> None:
    recorded = json.loads(opened.attrs["config"])
    odd = [*_ODD_NUMBERS, *_ODD_TEXTS, None, True, 1.5, float("nan"), [], {}, [[]], ["a"], [1, 2], 10**400]
    name = choices.one_of(sorted(recorded))
    value = choices.one_of(odd)
    recorded[name] = [value] if choices.number(2) else value
    opened.attrs.modify("config", json.dumps(recorded))


def _set_values(dataset, choices: Choices) -> None:
    import h5py

    if not dataset.size:
        return
    at = tuple(choices.number(side) for side in dataset.shape)
    if h5py.check_string_dtype(dataset.dtype) is not None:
        dataset[at] = choices.one_of([*(t.encode() for t in _ODD_TEXTS), choices.take(1 + choices.number(6))])
    elif dataset.dtype.kind == "f":
        dataset[at] = choices.one_of((float("nan"), float("inf"), -1.0, 0.0, 1e300))
    else:
        import numpy as np

        dataset[at] = np.array(choices.one_of(_ODD_NUMBERS)).astype(dataset.dtype)


def _replace_dataset(opened, name: str, choices: Choices) -> None:
    """Make a dataset of another type, shape or storage."""
    import h5py
    import numpy as np

    old = opened[name]
    values, kind, shape = old[()], old.dtype, list(old.shape)
    if choices.number(2):
        kind = choices.one_of(_KINDS)
        kind = h5py.string_dtype() if kind == "text" else np.dtype(kind)
    if choices.number(2) and shape:
        shape[choices.number(len(shape))] = choices.one_of((0, 1, 2, 3, 6, 7, 100, 10**6, 10**12, 2**40))
    options = {}
    if choices.number(2):
        options["chunks"] = tuple(min(max(1, side), choices.one_of((1, 2, 1000))) for side in shape)
        if choices.number(2):
            options["compression"] = choices.one_of(("gzip", "lzf"))
            options["shuffle"] = bool(choices.number(2))
    del opened[name]
    made = opened.create_dataset(name, tuple(shape), dtype=kind, **options)
    if choices.number(3) and made.size == values.size:
        made[...] = values.reshape(made.shape)
    elif choices.number(2) and made.size and made.size < 1 << 20:
        made[...] = b"x" if made.dtype.kind in "SO" else 1


def use(path: Path) -> None:
    """Read everything; raise what is a finding."""
    from click.testing import CliRunner

    from sppfeat.cli import main
    from sppfeat.errors import StoreError
    from sppfeat.store.reader import FeatureFile
    from sppfeat.store.verify import verify_file

    with warnings.catch_warnings(), contextlib.suppress(StoreError):
        warnings.simplefilter("error")
        with FeatureFile(path) as file:
            names = [n for n in dir(FeatureFile) if not n.startswith("_") and n not in ("close", "attribute")]
            for name in names:
                with contextlib.suppress(StoreError):
                    value = getattr(file, name)
                    if callable(value) and name in ("to_sklearn", "has_descriptor", "rows_with_descriptor"):
                        value()
            with contextlib.suppress(StoreError):
                verify_file(file)
    for arguments in (["info"], ["info", "--json"], ["verify", "--quiet"]):
        result = CliRunner().invoke(main, [*arguments, str(path)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if result.exit_code not in (0, 1):
            raise RuntimeError(f"{arguments}: exit code {result.exit_code}")
        if not all(c.isprintable() or c == "\n" for c in result.output):
            raise RuntimeError(f"{arguments}: raw characters in {result.output!r}")
        if result.exit_code == 1 and arguments[0] == "info" and result.stderr.count("\n") != 1:
            raise RuntimeError(f"{arguments}: not one line: {result.stderr!r}")


class Child:
    """What a child process does with its inputs; it keeps count in a file, for the parent to see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "current.h5"
        self._pristine = [path.read_bytes() for path in sorted((folder / "pristine").iterdir())]
        self._n = 0

    def run(self, content: bytes) -> None:
        """Try one input."""
        write_hostile(self._path, self._pristine, content)
        self._n += 1
        (self._folder / "n").write_text(str(self._n))
        signal.alarm(_SECONDS_PER_INPUT)  # a hang inside HDF5 too: the default action needs no interpreter
        try:
            use(self._path)
        except Exception as error:
            self._keep(error)
        signal.alarm(0)

    def _keep(self, error: BaseException) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        name = f"finding-{type(error).__name__}-{Path(where.filename).stem}-{where.lineno}"
        if not (self._folder / f"{name}.h5").exists():
            shutil.copy(self._path, self._folder / f"{name}.h5")
            (self._folder / f"{name}.txt").write_text("".join(traceback.format_exception(error)))


def child(folder: Path, seed: int, seconds: int, *, guided: bool) -> None:
    """Run one batch."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not guided:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        generator, runner, end = random.Random(seed), Child(folder), time.monotonic() + seconds
        for _ in range(_BATCH):
            if time.monotonic() > end:
                break
            runner.run(generator.randbytes(generator.choice((8, 20, 60, 200))))
        return
    import atheris

    with atheris.instrument_imports(include=["sppfeat", "h5py"]):
        import sppfeat.cli.info
        import sppfeat.cli.verify
        import sppfeat.store.reader
        import sppfeat.store.verify  # noqa: F401
    runner = Child(folder)
    options = [
        f"-seed={seed}",
        f"-runs={_BATCH}",
        f"-max_total_time={seconds}",
        "-max_len=300",
        "-rss_limit_mb=6000",
    ]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=0", str(folder / "corpus")], runner.run)
    atheris.Fuzz()


def parent(folder: Path, seconds: int, *, guided: bool) -> None:
    """Start batches until the time is up, and count what came of them."""
    sys.path.insert(0, str(SUPPORT))
    from hostile_files import whole_images, with_boxes

    for name in ("pristine", "corpus"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for make in (whole_images, with_boxes):
        make(folder / "pristine" / f"{make.__name__}.h5")
    counts_file = folder / "counts.json"
    counts = (
        json.loads(counts_file.read_text())
        if counts_file.exists()
        else {"inputs": 0, "seconds": 0, "crashes": 0}
    )
    start = time.monotonic()
    while (left := seconds - (time.monotonic() - start)) > 0:
        began = time.monotonic()
        (folder / "n").write_text("0")
        seed = random.SystemRandom().randrange(1, 2**31)
        command = [
            sys.executable,
            __file__,
            str(folder),
            "--child",
            str(seed),
            "--seconds",
            str(int(left) + 1),
        ]
        done = subprocess.run([*command, *([] if guided else ["--random"])], capture_output=True, check=False)
        counts["inputs"] += int((folder / "n").read_text() or 0)
        counts["seconds"] += round(time.monotonic() - began)
        if done.returncode:
            counts["crashes"] += 1
            kept = folder / f"crash-{counts['crashes']}"
            if (folder / "current.h5").exists():
                shutil.copy(folder / "current.h5", kept.with_suffix(".h5"))
            kept.with_suffix(".txt").write_bytes(b"%d\n" % done.returncode + done.stdout + done.stderr)
        counts_file.write_text(json.dumps(counts))
    findings = sorted(path.name for path in folder.glob("finding-*.h5"))
    print(json.dumps({**counts, "findings": findings}))  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--random", action="store_true", help="without coverage")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is None:
        parent(arguments.folder, arguments.seconds, guided=not arguments.random)
    else:
        child(arguments.folder, arguments.child, arguments.seconds, guided=not arguments.random)
