"""`python -m geal_edge.cli.inside RUN upload ...`: a command that does not outlive the process RUN, which has started it.

Of use to `run` alone ([upload] inside). It is killed with RUN, since an uploader that stayed would hold the spool's outbox
against that of the next run; what it was sending is sent again.
"""

import ctypes
import os
import signal
import sys

from geal_edge.cli.start import main

PR_SET_PDEATHSIG = 1
NICER = 5
"""Steps back behind the run, of which it takes nothing away."""


def die_with(run: int) -> None:
    """Be killed when the process `run` ends; at once where it has ended already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != run:
        sys.exit(128 + signal.SIGKILL)


if __name__ == "__main__":
    die_with(int(sys.argv.pop(1)))
    os.nice(NICER)
    main(says_stopped=False)  # the run says it for both
