"""A small RTSP server for tests, in a process of its own: pictures as RTP/JPEG (RFC 2435) over the connection itself."""

RTSP_SERVER = """
import base64, io, socket, struct, sys, time
import numpy as np
from PIL import Image

port, user_password, frames, per_s = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
ready = sys.argv[5]


def packets(number, clock):
    buffer = io.BytesIO()
    image = np.full((64, 96, 3), (40 + 3 * number) % 200, np.uint8)
    Image.fromarray(image).save(buffer, "JPEG", quality=80, subsampling="4:2:0")
    data = buffer.getvalue()
    tables, at = b"", 2
    while data[at + 1] != 0xDA:  # up to the scan
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        if data[at + 1] == 0xDB:
            segment = data[at + 4 : at + 2 + length]
            for start in range(0, len(segment), 65):
                tables += segment[start + 1 : start + 65]
        at += 2 + length
    scan = data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] : -2]
    header = struct.pack(">BBHBBBB", 0, 0, 0, 1, 255, 96 // 8, 64 // 8) + struct.pack(">BBH", 0, 0, len(tables)) + tables
    rtp = struct.pack(">BBHII", 0x80, 0x80 | 26, number & 0xFFFF, clock & 0xFFFFFFFF, 7)
    body = rtp + header + scan
    return b"$" + struct.pack(">BH", 0, len(body)) + body


def serve(connection):
    stream = connection.makefile("rwb")
    while True:
        lines = []
        while (line := stream.readline().strip()) or not lines:
            if not line:
                return
            lines.append(line.decode())
        method = lines[0].split()[0]
        headers = dict(line.split(": ", 1) for line in lines[1:])
        url = lines[0].split()[1]
        answer, body = ["RTSP/1.0 200 OK", "CSeq: " + headers["CSeq"]], ""
        wanted = "Basic " + base64.b64encode(user_password.encode()).decode()
        if method == "OPTIONS":
            answer.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif headers.get("Authorization") != wanted:
            answer = ["RTSP/1.0 401 Unauthorized", answer[1], 'WWW-Authenticate: Basic realm="cameras"']
        elif method == "DESCRIBE":
            told = ("v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=front", "t=0 0", "m=video 0 RTP/AVP 26", "a=control:track")
            body = "".join(line + "\\r\\n" for line in told)
            answer += ["Content-Base: " + url + "/", "Content-Type: application/sdp", "Content-Length: %d" % len(body)]
        elif method == "SETUP":
            answer += ["Session: 1", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"]
        elif method == "PLAY":
            answer += ["Session: 1", "Range: npt=0-"]
        stream.write(("\\r\\n".join(answer) + "\\r\\n\\r\\n" + body).encode())
        stream.flush()
        if method == "PLAY":
            for number in range(frames):
                stream.write(packets(number, int(number * 90000 / per_s)))
                stream.flush()
                time.sleep(1 / per_s)
            return


with socket.create_server(("127.0.0.1", port)) as server:
    open(ready, "w").close()
    while True:
        connection, _ = server.accept()
        with connection:
            try:
                serve(connection)
            except (OSError, ValueError):
                pass
"""
"""Arguments: port, `USER:PASSWORD` that it asks for, frames after which it hangs up, frames a second, and a file that it
makes once it listens."""
