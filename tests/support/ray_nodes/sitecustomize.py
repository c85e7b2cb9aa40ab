"""Startup code of the nodes of the test Ray cluster: slows writes while the file SPPFEAT_TESTS_PACE exists."""

import os
import time

_PACE = os.environ.get("SPPFEAT_TESTS_PACE", "")
_PWRITE = os.pwrite


def _slow_pwrite(*arguments):
    began = time.monotonic()
    try:
        while True:
            with open(_PACE) as file:
                if time.monotonic() - began >= float(file.read()):
                    break
            time.sleep(0.02)
    except (OSError, ValueError):
        pass
    return _PWRITE(*arguments)


if _PACE:
    os.pwrite = _slow_pwrite
