"""Running somebody's program on some bytes: no shell, little environment, an end by the clock, and an answer of bounded size."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from geal_edge.errors import FrameError

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""What of our environment a program gets: credentials of the uploader stand there too."""
SAID_BYTES = 2000
"""Of what it says on stderr, from the end."""
_PIECE = 1 << 16


def answer_of(
    words: Sequence[str], data: bytes, about: Mapping[str, str], *, timeout_s: float, most_bytes: int
) -> bytes:
    """What a program writes on stdout, given `data` on stdin and `about` in its environment.

    It and whatever it has started are killed when it takes longer. Raises FrameError `privacy` where it cannot be started, does
    not end in time, ends with anything but 0, or writes more than `most_bytes`.
    """
    environ = {os.fsencode(name): os.environb[os.fsencode(name)] for name in PASSED_ON if name in os.environ}
    told = {name.encode(): text.encode("utf-8", "backslashreplace").replace(b"\0", b"") for name, text in about.items()}
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environ, **told},
            cwd="/",
            start_new_session=True,  # so that all of it can be killed
        )
    except (OSError, ValueError) as error:
        raise FrameError("privacy", f"{words[0]} cannot be started ({getattr(error, 'strerror', error)}).") from error
    with process:  # closes the pipes and waits
        try:
            deadline_s = time.monotonic() + timeout_s
            answer, said = _talk(process, data, deadline_s, most_bytes)
            code = process.wait(timeout=max(0.0, deadline_s - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise FrameError("privacy", f"{words[0]} took longer than {timeout_s:g} s, and was ended.") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if code != 0:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise FrameError("privacy", f"{words[0]} ended with {code}{f': {last}' if last else '.'}")
    return answer


def _talk(process: "subprocess.Popen[bytes]", data: bytes, deadline_s: float, most_bytes: int) -> tuple[bytes, bytes]:
    """(stdout, the end of stderr), once it has closed both. Raises TimeoutError, and FrameError where it writes too much."""
    to, answers, says = process.stdin, process.stdout, process.stderr
    if to is None or answers is None or says is None:
        raise AssertionError("all three are pipes")
    answer, said, left = bytearray(), bytearray(), memoryview(data)
    with selectors.DefaultSelector() as ready:
        for stream in (to, answers, says):
            os.set_blocking(stream.fileno(), False)
            ready.register(stream, selectors.EVENT_WRITE if stream is to else selectors.EVENT_READ)
        while ready.get_map():
            wait_s = deadline_s - time.monotonic()
            if wait_s <= 0:
                raise TimeoutError
            for key, _ in ready.select(wait_s):
                if key.fileobj is to:
                    try:
                        left = left[os.write(key.fd, left[:_PIECE]) :]
                    except BrokenPipeError:  # it has seen enough
                        left = left[:0]
                    if not left:
                        ready.unregister(to)
                        to.close()
                    continue
                piece = os.read(key.fd, _PIECE)
                if not piece:
                    ready.unregister(key.fileobj)
                elif key.fileobj is answers:
                    answer += piece
                    if len(answer) > most_bytes:
                        raise FrameError("privacy", f"it wrote more than {most_bytes} bytes.")
                else:
                    said = (said + piece)[-SAID_BYTES:]
    return bytes(answer), bytes(said)
