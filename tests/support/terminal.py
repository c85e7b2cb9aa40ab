"""A pseudo-terminal as standard error."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios

from sppfeat.config import progress


class Terminal:
    """A pseudo-terminal as standard error; ``with`` closes it."""

    def __init__(self, monkeypatch, columns):
        self._control, terminal = pty.openpty()
        self.resize(columns)
        self._stream = os.fdopen(terminal, "w")
        os.set_blocking(self._control, False)
        monkeypatch.setattr(sys, "stderr", self._stream)
        monkeypatch.setattr(progress, "_SECONDS_BETWEEN_UPDATES", 0)

    def resize(self, columns):
        fcntl.ioctl(self._control, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self):
        """The text printed since the last call."""
        self._stream.flush()
        with open(self._control, "rb", buffering=0, closefd=False) as file:
            return (file.read() or b"").decode()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stream.close()
        os.close(self._control)


def widths(printed):
    """The number of characters in each printed line."""
    return [len(re.sub(r"\x1b\[.", "", line)) for line in re.split(r"[\r\n]+", printed)]
