"""Cameras of live sources: real sockets, a compiled C++ sender, real processes that hold a device; recorded ROS messages."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from geal_edge.errors import FrameError, MissingDependency, SourceError, UsageError
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.live import LiveSource, open_live
from geal_edge.runtime.live.device import OpenCvCamera, rtsp_camera, rtsp_credentials, users_of
from geal_edge.runtime.live.ros2 import shot_of
from geal_edge.runtime.live.sock import FILE, HEADER, MAGIC, PIXELS, TRIP_OVER, SocketCamera
from geal_edge.runtime.sources.bagfile import Channel
from tests.films import write_video
from tests.recordings import compressed, raw, serialised
from tests.rtsp import RTSP_SERVER
from tests.test_live import EVERY, picture
from tests.writers import process

EXAMPLE = Path(__file__).parents[1] / "examples" / "push_frames.cpp"


@contextmanager
def running(source: LiveSource) -> Iterator[Iterator[object]]:
    stream = source.frames()
    try:
        yield patient(stream)
    finally:
        stream.close()  # type: ignore[attr-defined]


def patient(stream: Iterator[object]) -> Iterator[object]:
    """The stream, for a minute: what a test waits for has come by then, or never will."""
    ends_at = time.monotonic() + 60.0
    for item in stream:
        assert time.monotonic() < ends_at, "a minute has passed"
        yield item


def message(
    kind: int, data: bytes, *, time_ns: int = 5, width: int = 0, height: int = 0, encoding: bytes = b""
) -> bytes:
    return HEADER.pack(MAGIC, kind, time_ns, len(data), width, height, 0, 0, encoding) + data


@contextmanager
def sender(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
        connected.connect(str(path))
        yield connected


def next_frame(stream) -> Frame:
    """The next that was looked at in time: a camera does not wait for a test on a machine with other work."""
    found = next(item for item in stream if item is not None and getattr(item, "reason", None) != "queue_full")
    assert isinstance(found, Frame), found
    return found


def wait_for_file(path: Path) -> None:
    while not path.exists():
        threading.Event().wait(0.01)


def wait_for_event(stream, source: LiveSource, name: str) -> dict[str, object]:
    while True:
        for notice in source.take_notices():
            if notice.name == name:
                return notice.detail
        next(stream)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_example_in_cpp_sends_frames_and_the_end_of_the_trip(tmp_path):
    program, path = tmp_path / "push_frames", tmp_path / "front.sock"
    subprocess.run(["g++", "-std=c++17", "-O1", "-o", program, EXAMPLE], check=True)
    source = open_live([f"unix:{path}"], rate_hz=EVERY)
    with running(source) as stream, subprocess.Popen([program, path, "5", "20"]) as sending:
        frames = [next_frame(stream) for _ in range(2)]
        while not source.take_end_of_trip():
            next(stream)
        assert sending.wait() == 0
    assert frames[0].image.shape == (180, 320, 3)
    assert frames[0].image[0, 0].tolist() == [14, 7, 0]  # the sender's are B, G, R
    assert frames[0].topic == "front"
    assert not path.exists()


def test_image_files_and_pixels_come_through_a_socket_with_the_time_of_the_sender(tmp_path):
    path = tmp_path / "front.sock"
    source = open_live([f"unix:{path}"], rate_hz=EVERY)
    pixels, jpeg = picture(1), encode(picture(2), "jpg")
    with running(source) as stream, sender(path) as sending:
        sending.sendall(message(PIXELS, pixels.tobytes(), time_ns=7, width=32, height=24, encoding=b"rgb8"))
        first = next_frame(stream)
        sending.sendall(message(FILE, jpeg, time_ns=9)[:60])
        sending.sendall(message(FILE, jpeg, time_ns=9)[60:])
        second = next_frame(stream)
    assert np.array_equal(first.image, pixels)
    assert (first.id, first.capture_time_ns) == ("live#front@7", 7)
    assert (second.encoded, second.encoding, second.capture_time_ns) == (jpeg, "jpg", 9)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n" + b"x" * 60,
        HEADER.pack(MAGIC, 9, 0, 0, 0, 0, 0, 0, b""),
        HEADER.pack(MAGIC, 0, 0, 2**60, 0, 0, 0, 0, b""),
    ],
)
def test_what_is_no_frame_ends_its_connection_and_the_next_sender_is_served(tmp_path, garbage):
    path = tmp_path / "front.sock"
    source = open_live([f"unix:{path}"], rate_hz=EVERY)
    with running(source) as stream:
        with sender(path) as sending:
            sending.sendall(garbage)
            assert "sent no frame" in str(wait_for_event(stream, source, "camera_lost")["reason"])
        with sender(path) as sending:
            sending.sendall(message(FILE, encode(picture(), "png")))
            assert np.array_equal(next_frame(stream).image, picture())


def test_pixels_that_do_not_fit_their_size_are_a_lost_frame(tmp_path):
    path = tmp_path / "front.sock"
    with running(open_live([f"unix:{path}"], rate_hz=EVERY)) as stream, sender(path) as sending:
        sending.sendall(message(PIXELS, b"few", width=32, height=24, encoding=b"rgb8"))
        lost = next(item for item in stream if item is not None)
    assert lost.reason == "truncated"  # type: ignore[attr-defined]


def test_a_socket_that_another_process_listens_on_is_refused_and_one_left_behind_is_replaced(tmp_path):
    path = tmp_path / "front.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen(1)
        for _ in range(4):  # from some time on its queue is full, and it answers nobody
            with pytest.raises(SourceError, match="another process listens there"):
                SocketCamera(path)
    with running(LiveSource([SocketCamera(path)])) as stream:
        next(stream)
        assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(SourceError, match="cannot be made"):
        SocketCamera(tmp_path / "absent" / "s.sock")


def test_a_device_that_is_not_there_or_is_none_is_said(tmp_path):
    with pytest.raises(SourceError, match="no such camera"):
        open_live(["v4l2:/dev/video99"])
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="is no device"):
        open_live([f"v4l2:{tmp_path / 'file'}"])


def test_a_busy_device_names_who_has_it(tmp_path):
    pytest.importorskip("cv2")
    device = tmp_path / "video0"
    device.write_bytes(b"")
    ready = tmp_path / "ready"
    program = "import sys, time; f = open(sys.argv[1], 'rb'); open(sys.argv[2], 'w').close(); time.sleep(60)"
    with process(program, device, ready) as holder:
        wait_for_file(ready)
        assert users_of(device) == [holder.pid]
        with pytest.raises(
            SourceError, match=f"in use by PID {holder.pid}; subscribe to its topic, RTSP or a GStreamer tee"
        ):
            OpenCvCamera("video0", f"v4l2:{device}", str(device), "CAP_V4L2", device=device)


def test_a_device_whose_other_user_cannot_be_seen_says_how_to_find_it(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    device = tmp_path / "video0"
    device.write_bytes(b"")
    monkeypatch.setattr("geal_edge.runtime.live.device.users_of", lambda path: [])  # as under ProtectProc=
    with pytest.raises(SourceError, match=f"that this user cannot see .`sudo fuser -v {device}` tells.: subscribe to"):
        OpenCvCamera("video0", f"v4l2:{device}", str(device), "CAP_V4L2", device=device)


def test_a_camera_that_was_unplugged_is_lost_and_does_not_end_the_run(tmp_path):
    pytest.importorskip("cv2")
    device = tmp_path / "video0"  # its file is gone with it; opened late, as when it is opened again
    camera = OpenCvCamera("video0", f"v4l2:{device}", str(device), "CAP_FFMPEG", device=device)
    source = LiveSource([camera])
    with running(source) as stream:
        lost = wait_for_event(stream, source, "camera_lost")
    assert "cannot be opened" in str(lost["reason"])


def test_a_stream_that_opencv_reads_gives_frames_and_its_end_is_an_event(tmp_path):
    pytest.importorskip("cv2")
    film = write_video(tmp_path / "film.mp4", frames=5)
    camera = OpenCvCamera("film", "rtsp://film", str(film), "CAP_FFMPEG")
    source = LiveSource([camera], rate_hz=EVERY)
    with running(source) as stream:
        frame = next_frame(stream)
        lost = wait_for_event(stream, source, "camera_lost")
    assert frame.image.dtype == np.uint8
    assert frame.image.shape[2] == 3
    assert lost["reason"] == "rtsp://film: gives no more pictures"


def test_an_rtsp_camera_that_does_not_answer_is_an_event_without_its_password():
    pytest.importorskip("cv2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody accepts there once this is closed
    environ = {"GEAL_EDGE_RTSP_USER": "edge", "GEAL_EDGE_RTSP_PASSWORD": "s3cret"}
    source = LiveSource([rtsp_camera(f"rtsp://127.0.0.1:{port}/front", environ)])
    with running(source) as stream:
        detail = wait_for_event(stream, source, "camera_lost")
    assert "user and password are right" in str(detail["reason"])
    assert "s3cret" not in json.dumps(detail) + source.spec + source.fingerprint()


def test_rtsp_passwords_come_from_the_environment_or_a_file_and_never_from_the_command_line(tmp_path):
    with pytest.raises(UsageError, match="seen by every process") as refused:
        open_live(["rtsp://edge:s3cret@camera/front"])
    assert "s3cret" not in str(refused.value)
    for address in ("?user=edge&password=s3cret", "/user=edge_pwd=s3cret_channel=1", ":554/1?token=s3cret"):
        with pytest.raises(UsageError, match="seen by every process") as refused:
            open_live([f"rtsp://camera{address}"])
        assert "s3cret" not in str(refused.value)
    with pytest.raises(UsageError, match="cannot be read") as refused:
        open_live(["rtsp://edge:s3/cret@camera/front"])
    assert "s3" not in str(refused.value)
    file = tmp_path / "credentials"
    with pytest.raises(UsageError, match="cannot be read"):
        open_live(["rtsp://[::1/front"])
    file.write_text("left edge one\nRight edge two words\n")
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        rtsp_credentials("left", {"GEAL_EDGE_RTSP_CREDENTIALS": str(file)})
    file.chmod(0o600)
    assert rtsp_credentials("right", {"GEAL_EDGE_RTSP_CREDENTIALS": str(file)}) == ("edge", "two words")
    assert rtsp_credentials("rear", {"GEAL_EDGE_RTSP_CREDENTIALS": str(file)}) == ("", "")
    file.write_text("# of the front\n\nleft edge one\nright edge\n")
    with pytest.raises(UsageError, match="entry 3 of the RTSP credentials must be HOST USER PASSWORD"):
        rtsp_credentials("left", {"GEAL_EDGE_RTSP_CREDENTIALS": str(file)})


def test_cameras_that_want_the_password_within_their_address_get_it_there_and_nobody_sees_it():
    pytest.importorskip("cv2")
    environ = {"GEAL_EDGE_RTSP_USER": "edge", "GEAL_EDGE_RTSP_PASSWORD": "s3/cret"}
    address = "rtsp://10.0.0.7:8554/user={user}&password={password}_channel=1"
    camera = rtsp_camera(address, environ, name="front")
    assert camera._address == "rtsp://10.0.0.7:8554/user=edge&password=s3%2Fcret_channel=1"
    assert (camera.name, camera.spec) == ("front", address)


def test_gstreamer_without_an_opencv_that_has_it_is_said():
    cv2 = pytest.importorskip("cv2")
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(SourceError, match="built without GStreamer"):
        open_live(["gst:nvarguscamerasrc sensor-id=0"])
    with pytest.raises(SourceError, match=r"user-pw=\(removed\)") as refused:
        open_live(["front=gst:rtspsrc location=rtsp://edge:s3cret@10.0.0.7/1 user-pw=s3cret"])
    assert "s3cret" not in str(refused.value)


def test_messages_of_a_topic_are_read_as_recorded_ones_are():
    said = compressed(3)
    shot = shot_of(Channel(topic="/cam", type="sensor_msgs/CompressedImage", encoding="cdr"), serialised(said))
    assert shot.capture_time_ns > 0
    assert isinstance(shot.read(), bytes)
    said = raw(3, bytes(4 * 2 * 3), "rgb8", (4, 2))
    pixels = shot_of(Channel(topic="/cam", type="sensor_msgs/Image", encoding="cdr"), serialised(said)).read()
    assert isinstance(pixels, np.ndarray)
    assert pixels.dtype == np.uint8


def test_a_damaged_message_is_a_lost_frame_at_the_time_of_its_arrival():
    shot = shot_of(Channel(topic="/cam", type="sensor_msgs/Image", encoding="cdr"), b"\0\1", wall_ns=lambda: 77)
    assert shot.capture_time_ns == 77
    with pytest.raises(FrameError, match="undecodable"):
        shot.read()


def test_a_topic_without_ros_says_what_to_source():
    try:
        import rclpy  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependency, match="source the setup"):
            open_live(["ros2:/camera/image_raw"])
    with pytest.raises(UsageError, match="begins with a slash"):
        open_live(["ros2:camera"])


def test_the_protocol_has_an_end_of_trip(tmp_path):
    path = tmp_path / "front.sock"
    source = open_live([f"unix:{path}"], rate_hz=EVERY)
    with running(source) as stream, sender(path) as sending:
        sending.sendall(message(TRIP_OVER, b""))
        while not source.take_end_of_trip():
            next(stream)
    assert not source.take_end_of_trip()


def test_a_network_camera_is_read_with_its_password_and_read_again_after_it_hung_up(tmp_path):
    pytest.importorskip("cv2")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {"GEAL_EDGE_RTSP_USER": "edge", "GEAL_EDGE_RTSP_PASSWORD": "s3:cret"}
    ready = tmp_path / "ready"
    with process(RTSP_SERVER, port, "edge:s3:cret", 40, 20, ready):
        wait_for_file(ready)
        source = LiveSource([rtsp_camera(f"rtsp://127.0.0.1:{port}/front", environ)], rate_hz=EVERY)
        with running(source) as stream:
            frame = next_frame(stream)
            wait_for_event(stream, source, "camera_lost")
            again = next_frame(stream)
    assert frame.topic == "127.0.0.1-front"
    assert frame.image.shape == again.image.shape == (64, 96, 3)
    assert np.ptp(frame.image) <= 8  # one grey
    assert again.frame_index > frame.frame_index
