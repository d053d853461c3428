"""What may be a secret, taken out of text that people see: passwords, tokens and user names in addresses.

Passwords in addresses of cameras stand where each maker wants them: before the host, in the query, in the path, or as a property
of a GStreamer element. A word in a path that nothing names as a password cannot be told from any other.
"""

import re

REMOVED = "(removed)"

_USER_IN_URL = re.compile(  # proxies may be named without a scheme
    r"(?<=://)[^/\s]*@|(?<![^/\s@])(?=[^/\s@]*@)[^/\s@]*:[^/\s@]+@"
)
_WORDS = "token|secret|pas|pass|passphrase|password|passwd|pwd|psw|pw|auth|authorization|cookies?|credential|signature|key|sig"
_SECRET_IN_URL = re.compile(  # `?user=admin&pwd=...`, `/user=admin_password=..._channel=1`, `rtspsrc user-pw="..."`
    rf"(?i)((?:{_WORDS}) *= *)(?:\\?\"[^\"]*\"|\\?'[^']*'|[^&;\s\"']+)"
)
"""Both look at each place once, however long the text: what is shown may come from whoever sends frames."""


def masked(text: str) -> str:
    """The same text with what may be a secret replaced.

    >>> masked("rtsp://cam:pw@10.0.0.7/1?token=abc&fps=2")
    'rtsp://(removed)@10.0.0.7/1?token=(removed)&fps=2'
    >>> masked("gst:rtspsrc location=rtsp://10.0.0.7/1 user-id=cam user-pw=pw ! decodebin")
    'gst:rtspsrc location=rtsp://10.0.0.7/1 user-id=cam user-pw=(removed) ! decodebin'
    >>> masked("gst:rtspsrc user-pw = 'two words' proxy-pw=x ! srtsrc uri=srt://:1?passphrase=x")
    'gst:rtspsrc user-pw = (removed) proxy-pw=(removed) ! srtsrc uri=srt://:1?passphrase=(removed)'
    """
    return _SECRET_IN_URL.sub(rf"\1{REMOVED}", _USER_IN_URL.sub(f"{REMOVED}@", text))
