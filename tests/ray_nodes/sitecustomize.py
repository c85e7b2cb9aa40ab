"""What the nodes of the tests' Ray cluster run at their start: writing takes as long as a file says."""

import os
import time

_PACE = os.environ.get("SPPFEAT_TESTS_PACE", "")
_PWRITE = os.pwrite


def _slow_pwrite(*arguments):
    try:
        with open(_PACE) as file:
            time.sleep(float(file.read()))
    except (OSError, ValueError):
        pass
    return _PWRITE(*arguments)


if _PACE:
    os.pwrite = _slow_pwrite
