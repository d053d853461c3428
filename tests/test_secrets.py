"""What may be a secret in text that people see."""

import subprocess
import sys

import pytest

from geal_edge.runtime.secrets import masked


@pytest.mark.parametrize(
    "text",
    [
        "rtspsrc user-pw=hidden ! x",
        'rtspsrc user-pw="well hidden" ! x',
        "rtspsrc user-pw = 'well hidden' ! x",
        r'uris = ["gst:rtspsrc user-pw=\"well hidden\" ! x"]',
        "rtspsrc proxy-pw=hidden ! x",
        "srtsrc uri=srt://10.0.0.7:1?passphrase=hidden&mode=caller ! x",
        'souphttpsrc cookies="session=hidden" ! x',
        "rtsp://10.0.0.7/user=admin_password=hidden_channel=1",
        "rtsp://cam:hidden@10.0.0.7/1",
    ],
)
def test_a_password_is_seen_nowhere_whatever_stands_around_it(text):
    assert "hidden" not in masked(text)
    assert "(removed)" in masked(text)


def test_a_long_text_is_looked_through_once_as_it_may_come_from_anybody():
    program = "from geal_edge.runtime.secrets import masked\nfor s in ('_', 'a:', 'key', 'a'): masked(s * 100_000)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
