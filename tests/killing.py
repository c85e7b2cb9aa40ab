"""Extractions in processes that can be killed at any moment, a dozen per second.

``KillableRuns`` starts one process that imports everything and loads the network; each run is a fork of it, with the
command line's ``main`` in it: a real process that takes a real SIGKILL, without the seconds that loading torch takes.
"""

import contextlib
import functools
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from conftest import write_image

TINY = ("--backbone", "squeezenet1_1", "--weights", "none", "--seed", "3", "--device", "cpu")
TINY += ("--levels", "1,2", "--size", "40", "--batch-size", "1", "--workers", "0")
HERE = Path(__file__).parent
# What changes a file or a name; everything that HDF5 does happens under another name, between two of these.
CALLS = ("pwrite", "fdatasync", "fsync", "posix_fallocate", "replace", "unlink")


class Run(NamedTuple):
    """A run under way."""

    pid: int

    def is_running(self) -> bool:
        """Whether it is there: its parent buries it at once."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)


class KillableRuns:
    """Starts runs, one at a time.

    Args:
        folder: for what they print.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log.txt"
        environment = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "killing.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def start(
        self,
        *arguments,
        sync_seconds: float = 2.0,
        die_at: int | None = None,
        half: bool = False,
        log: str | None = None,
        ignored: tuple[int, ...] = (),
        file_nbytes: int | None = None,
        temporary: Path | None = None,
    ) -> Run:
        """Begin a run.

        Args:
            arguments: of ``sppfeat``.
            sync_seconds: how often rows are synced and status is written.
            die_at: the process kills itself before this one of its ``CALLS``, counted from 0.
            half: where that writes, it writes half of it first.
            log: where it prints to; where :meth:`log` finds it, if not given.
            ignored: signals, by whoever started it.
            file_nbytes: no file may become larger.
            temporary: where temporary files go.
        """
        self._log.unlink(missing_ok=True)
        job = {"args": list(map(str, arguments)), "sync": sync_seconds, "die_at": die_at, "half": half}
        job |= {"log": log or str(self._log), "ignored": ignored, "file_nbytes": file_nbytes}
        job |= {"temporary": temporary and str(temporary)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Run(int(self._process.stdout.readline()))

    def wait(self) -> tuple[int, int]:
        """How the run ended, as ``subprocess`` has it, and the number of its ``CALLS`` if it came to its end."""
        status, n_calls = map(int, self._process.stdout.readline().split())
        return status, n_calls

    def run(self, *arguments, **options) -> tuple[int, int]:
        """Begin a run and wait for its end."""
        self.start(*arguments, **options)
        return self.wait()

    def log(self) -> str:
        """What the last run printed."""
        return self._log.read_text() if self._log.exists() else ""

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    """Fork a run for each line of standard input; answer with its number, and then with how it ended."""
    from tqdm import tqdm

    import sppfeat.configure as configure
    from sppfeat.backbones import Backbone
    from sppfeat.cli import main

    # Everything that a run imports and loads is there before the forks.
    tqdm.monitor_interval = 0  # a thread
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
    configure.load_backbone = functools.cache(configure.load_backbone)
    Backbone.geometry = functools.cache(Backbone.geometry)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SystemExit):
        write_image(Path(folder) / "warm.png", 40, 40, seed=0)
        main(["extract", folder, "-o", f"{folder}/warm.h5", "--boxes", "grid:1x1", "--quiet", *TINY])
    gc.freeze()  # a collection in a fork would copy every page that it looks at
    # A fork has none of the threads of its parent, and waits for ever for what they held.
    assert threading.active_count() == 1
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os._exit(run_job(job, writing))
        os.close(writing)
        answer(pid)
        _, status = os.waitpid(pid, 0)
        counted = os.read(reading, 100)
        os.close(reading)
        answer(os.waitstatus_to_exitcode(status), int(counted or b"-1"))
    gc.unfreeze()


def answer(*numbers: int) -> None:
    sys.stdout.write(" ".join(map(str, numbers)) + "\n")
    sys.stdout.flush()


def run_job(job: dict, counter: int) -> int:
    """One run, in the forked process; its exit status."""
    from tqdm import tqdm

    from sppfeat.cli import main
    from sppfeat.store import FeatureWriter

    tqdm.set_lock(
        threading.RLock()
    )  # its own one is shared by all forks, and stays taken where one is killed
    output = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for fd in (1, 2):
        os.dup2(output, fd)
    if job["file_nbytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_nbytes"],) * 2)
    tempfile.tempdir = job["temporary"] or tempfile.tempdir
    for number in job["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    FeatureWriter.__init__.__kwdefaults__["sync_seconds"] = job["sync"]
    n_calls = count_calls(job["die_at"], job["half"])
    try:
        main(job["args"])
    except SystemExit as stop:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os.write(counter, str(n_calls()).encode())
        return stop.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    return 70


def count_calls(die_at: int | None, half: bool):
    """Count the ``CALLS`` of this process, and kill it before one of them; what returns their number."""
    n_calls = 0

    def counted(name, true_call):
        def call(*arguments, **options):
            nonlocal n_calls
            if n_calls == die_at:
                if half and name == "pwrite":
                    fd, content, at = arguments
                    true_call(fd, bytes(content)[: len(content) // 2], at)
                os.kill(os.getpid(), signal.SIGKILL)
            n_calls += 1
            return true_call(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(name, getattr(os, name)))
    return lambda: n_calls


if __name__ == "__main__":
    serve()
