"""A recording of 2 GB is streamed in flat memory, by the kernel's own count of a fresh process.

Slow (a minute, and 2.5 GB of disk): `pytest tests/slow/test_bags_large.py`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mcap.writer import CompressionType

from tests.recordings import compressed, jpeg, write_mcap

SIZE = 2_000_000_000
PADDING = 500_000
ALLOWED_KB = 64 * 1024
ROOT = Path(__file__).parents[2]

READ = """
import re, sys
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.sources import open_source

def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

small, large = sys.argv[1:]
assert all(isinstance(item, Frame) for item in open_source(small).frames())
before = peak_kb()
frames = sum(isinstance(item, Frame) for item in open_source(large).frames())
print(frames, peak_kb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc to see the peak of memory")
@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.ZSTD])
def test_a_recording_of_2_gb_is_streamed_in_flat_memory(compression, tmp_path):
    if shutil.disk_usage(tmp_path).free < 2 * SIZE:
        pytest.skip("needs 4 GB of free disk")
    data = jpeg(1) + bytes(PADDING)
    count = SIZE // len(data)
    # Zeros compress to nothing: then the recording is 2 GB only once it is unpacked.
    large = write_mcap(
        tmp_path / "large.mcap",
        (compressed(number, data=data) for number in range(count)),
        compression=compression,
        chunk_size=4_000_000,
    )
    small = write_mcap(tmp_path / "small.mcap", (compressed(number, data=data) for number in range(3)))
    if compression == CompressionType.NONE:
        assert large.stat().st_size > SIZE * 0.99

    command = [sys.executable, "-c", READ, str(small), str(large)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    frames, growth_kb = map(int, output.split())
    assert frames == count
    assert growth_kb < ALLOWED_KB
    print(f"{frames} frames, peak of memory {growth_kb} kB above that of 3 frames")
