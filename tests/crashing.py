"""`cosmos-serve` that is killed when it passes a failpoint for the nth time.

python crashing.py POINT N serve …
"""

import itertools
import os
import signal
import sys

from server.cli import main
from server.failpoints import arm


def kill_at(point: str, passing: int) -> None:
    """Have this process killed, as by a loss of power, at the point's passing of that number."""
    passings = itertools.count(1)

    def pass_or_die() -> None:
        if next(passings) == passing:
            os.kill(os.getpid(), signal.SIGKILL)

    arm(point, pass_or_die)


if __name__ == "__main__":
    kill_at(sys.argv.pop(1), int(sys.argv.pop(1)))
    main()
