"""A program that ends with its parent, however that ends: `python -m flows.lifeline LINGER_S MODULE ARGUMENT...`.

Standard input is a pipe whose other end only the parent holds, so its end is the parent's. Then everything that the
program started is told to end, and what is left of its group is killed. Unlike a signal at the parent's death this
works on every system and reaches the program's own children too.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

from flows.process_group import kill_group, members, send, wait_until

# What a flow process needs to say that it crashed, and the server to stop [s].
GRACE_S = 4.0


def end_with_parent(linger_s: float) -> None:
    """From now on this process, the first of its group, ends with its group once standard input ends.

    It stays for another `linger_s` [s], for those who still have to tell it how they ended.
    """
    lifeline = os.dup(0)
    # Programs started from here must neither hold nor read the pipe.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_end_after, args=(lifeline, linger_s), daemon=True).start()


def _end_after(lifeline: int, linger_s: float) -> None:
    # Not through sys.stdin: its lock, held here, would abort the interpreter at its regular end.
    while os.read(lifeline, 1):
        pass
    me = os.getpid()
    if me == os.getpgrp():
        started_here = members(me) - {me}
        send(started_here, signal.SIGTERM)
        wait_until(lambda: not started_here & members(me), GRACE_S)
    if linger_s:
        time.sleep(linger_s)
        os.kill(me, signal.SIGTERM)
        time.sleep(GRACE_S)
    if me == os.getpgrp():
        kill_group(me)
    os._exit(1)


def main(arguments: list[str]) -> None:
    """Run the module as a program of its own."""
    linger_s, module, *rest = arguments
    end_with_parent(float(linger_s))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
