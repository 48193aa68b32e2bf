"""Becomes a command that the kernel stops when its parent dies: `die_with_parent.py PARENT COMMAND...`, on Linux.

A program of its own, which imports nothing of the project. Python can do it between fork and exec, too, but then
forks so that gRPC's handlers run, in a child without the threads that they count on: now and then one died of that.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ends at once if the parent has died before it could be asked about."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(parent):
        os.execvp(command[0], command)  # noqa: S606 - the parent's words, as they are


if __name__ == "__main__":
    main()
