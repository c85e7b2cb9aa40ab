"""Real processes of commands that start in milliseconds and can be killed.

Before the first test, pytest forks a server with all packages loaded. The server loads the network and forks a process
for each command, which takes a real SIGKILL. ``KillableRuns`` starts such processes; ``write_launcher`` writes a
program that starts one, for shells.
"""

import contextlib
import faulthandler
import functools
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple, NoReturn

from conftest import write_image

TINY = ("--backbone", "squeezenet1_1", "--weights", "none", "--seed", "3", "--device", "cpu")
TINY += ("--levels", "1,2", "--size", "40", "--batch-size", "1", "--workers", "0")
# The calls that change a file or its name. HDF5 writes only to files of another name, between two of these calls.
CALLS = ("pwrite", "fdatasync", "fsync", "posix_fallocate", "replace", "unlink")


class Run(NamedTuple):
    """A running process."""

    pid: int

    def is_running(self) -> bool:
        """Tells whether the process exists; its parent reaps it as soon as it ends."""
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


class CommandServer:
    """A process that forks another for each command.

    Start it before the tests start threads: a fork has no threads, but the locks that they held stay locked.

    Attributes:
        address: path of its socket.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="commands-")  # the name of a socket must be short
        self.address = f"{self._folder}/socket"
        ending, self._alive = os.pipe()
        with socket.socket(socket.AF_UNIX) as listener, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pytest-xdist has a thread
            listener.bind(self.address)
            listener.listen()
            self._pid = os.fork()
            if self._pid == 0:
                serve(listener.fileno(), ending)
        os.close(ending)

    def ask(self, job: dict) -> socket.socket:
        """Starts a command; the socket returned gives its process number, then its status."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        connection.sendall(json.dumps(job).encode())
        connection.shutdown(socket.SHUT_WR)
        return connection

    def close(self) -> None:
        os.close(self._alive)
        os.waitpid(self._pid, 0)
        shutil.rmtree(self._folder)


class KillableRuns:
    """Starts runs, one at a time.

    Args:
        server: forks the processes.
        folder: where their output goes.
    """

    def __init__(self, server: CommandServer, folder: Path) -> None:
        self._server = server
        self._log = folder / "log.txt"

    def start(
        self,
        *arguments,
        sync_seconds: float = 2.0,
        die_at: int | None = None,
        half: bool = False,
        pause: float = 0,
        log: str | None = None,
        ignored: tuple[int, ...] = (),
        file_nbytes: int | None = None,
        temporary: Path | None = None,
    ) -> Run:
        """Starts a run.

        Args:
            arguments: of ``sppfeat``.
            sync_seconds: interval between syncs of rows and status.
            die_at: number of the call in ``CALLS``, from 0, before which the process kills itself.
            half: first write half of the bytes, where that call writes.
            pause: seconds before each of these calls.
            log: file for its output, in place of the one that :meth:`log` reads.
            ignored: signals that it ignores from its start.
            file_nbytes: limit on the size of a file.
            temporary: folder for temporary files.
        """
        self._log.unlink(missing_ok=True)
        job = {"args": list(map(str, arguments)), "sync": sync_seconds, "die_at": die_at, "half": half}
        job |= {"pause": pause, "log": log or str(self._log), "ignored": ignored, "file_nbytes": file_nbytes}
        job |= {
            "temporary": temporary and str(temporary),
            "environment": dict(os.environ),
            "folder": os.getcwd(),
        }
        with self._server.ask({"program": "sppfeat", **job}) as connection:
            self._answers = connection.makefile()
        return Run(int(self._answers.readline()))

    def wait(self) -> tuple[int, int]:
        """Returns the final exit status as in ``subprocess``, and the number of ``CALLS`` (-1 if killed)."""
        with self._answers:
            status, n_calls = map(int, self._answers.readline().split())
        return status, n_calls

    def run(self, *arguments, **options) -> tuple[int, int]:
        """Starts a run and waits for its end."""
        self.start(*arguments, **options)
        return self.wait()

    def log(self) -> str:
        """The output of the last run."""
        return self._log.read_text() if self._log.exists() else ""


LAUNCHER = """#!{python} -IS
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
job = dict(program={program!r}, args=sys.argv[1:], environment=dict(os.environ), folder=os.getcwd())
socket.send_fds(connection, [b" "], [0, 1, 2])
connection.sendall(json.dumps(job).encode())
connection.shutdown(socket.SHUT_WR)
status = int(connection.makefile().readlines()[-1].split()[0])
if status < 0:
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def write_launcher(path: Path, server: CommandServer) -> None:
    """Writes a program ``sppfeat`` or ``torchrun`` that runs in a fork of the server."""
    path.write_text(LAUNCHER.format(python=sys.executable, address=server.address, program=path.name))
    path.chmod(0o755)


def serve(listener_fd: int, ending: int) -> NoReturn:
    """Forks a process for each connection, until pytest ends."""
    try:
        own = sorted((listener_fd, ending))
        for first, last in zip([3, own[0] + 1, own[1] + 1], [*own, os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(first, last)
        faulthandler.disable()  # it writes to a closed file
        set_up_streams()
        listener, is_loaded = socket.socket(fileno=listener_fd), False
        while ending not in select.select([listener, ending], [], [])[0]:
            connection, _ = listener.accept()
            if not is_loaded:
                load()
                is_loaded = True
            if os.fork() == 0:
                listener.close()
                os.close(ending)
                watch_job(connection)
                break
            connection.close()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def load() -> None:
    """Loads packages and the network once for all forks."""
    import matplotlib.figure  # noqa: F401 - a second of each command that draws or classifies
    import sklearn.model_selection  # noqa: F401
    import torch
    from tqdm import tqdm

    from sppfeat.cli import main
    from sppfeat.extraction import run
    from sppfeat.networks.backbones import Backbone

    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # a thread
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps forks
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # also where the tests run under nohup
        signal.signal(number, signal.SIG_DFL)
    run.load_backbone = functools.cache(run.load_backbone)
    Backbone.geometry = functools.cache(Backbone.geometry)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SystemExit):
        write_image(Path(folder) / "warm.png", 40, 40, seed=0)
        main(["extract", folder, "-o", f"{folder}/warm.h5", "--boxes", "grid:1x1", "--quiet", *TINY])
    gc.freeze()  # a collection in a fork would copy every page that it looks at
    assert threading.active_count() == 1


def watch_job(connection: socket.socket) -> None:
    """Forks a command; answers with its process number, then with its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    with connection.makefile("rb") as rest:
        job = json.loads(message + rest.read())
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        connection.close()
        os.close(reading)
        os._exit(run_job(job, streams, writing))
    for fd in (writing, *streams):
        os.close(fd)
    connection.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    counted = int(os.read(reading, 100) or b"-1")
    connection.sendall(b"%d %d\n" % (os.waitstatus_to_exitcode(status), counted))


def set_up_streams() -> None:
    """Opens the standard streams of Python on file descriptors 0 to 2."""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def run_job(job: dict, streams: list[int], counter: int) -> int:
    """Runs a command in the forked process; returns its exit status."""
    from tqdm import tqdm

    from sppfeat.cli import main
    from sppfeat.store.writer import FeatureWriter

    # tqdm's own lock is shared by all forks and stays locked when one is killed.
    tqdm.set_lock(threading.RLock())
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    if not streams:
        output = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        streams = [os.open(os.devnull, os.O_RDONLY), output, output]
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    set_up_streams()
    n_calls = prepare(job, FeatureWriter) if "log" in job else lambda: 0
    try:
        if job["program"] == "torchrun":
            from torch.distributed.run import main as torchrun

            torchrun(job["args"])
        else:
            main(job["args"])
    except SystemExit as stop:
        os.write(counter, str(n_calls()).encode())
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
    return 0


def prepare(job: dict, writer: type):
    """Applies the options of a run; returns a function that gives the number of calls."""
    if job["file_nbytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_nbytes"],) * 2)
    tempfile.tempdir = job["temporary"] or tempfile.tempdir
    for number in job["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    writer.__init__.__kwdefaults__["sync_seconds"] = job["sync"]
    return count_calls(job["die_at"], job["half"], job["pause"])


def count_calls(die_at: int | None, half: bool, pause: float):
    """Counts the ``CALLS`` of this process and kills it before one; returns a function that gives their number."""
    n_calls = 0

    def counted(name, true_call):
        def call(*arguments, **options):
            nonlocal n_calls
            time.sleep(pause)
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
