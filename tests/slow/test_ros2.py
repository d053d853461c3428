"""The ROS 2 source against a real rclpy and its middleware: a publisher in a process of its own, and the subscription.

`make test-ros2`; skips where there is no rclpy.
"""

import numpy as np
import pytest

from geal_edge.runtime.live import open_live
from tests.test_live_cameras import next_frame, running, wait_for_event
from tests.writers import process

pytest.importorskip("rclpy")
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")  # of ROS's own packages

PUBLISHER = """
import io, sys
import numpy as np
import rclpy
from PIL import Image as Picture
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

kind, topic, begins_s = sys.argv[1], sys.argv[2], int(sys.argv[3])
rclpy.init()
node = rclpy.create_node("camera_" + kind)
publisher = node.create_publisher({"raw": Image, "jpeg": CompressedImage, "text": String}[kind], topic, 1)
number = 0

def publish():
    global number
    number += 1
    pixels = np.full((48, 64, 3), (10, 20, number % 200), np.uint8)
    if kind == "text":
        message = String(data="no picture")
    elif kind == "raw":
        message = Image(height=48, width=64, encoding="rgb8", step=192, data=pixels.tobytes())
    else:
        written = io.BytesIO()
        Picture.fromarray(pixels).save(written, "PNG")
        message = CompressedImage(format="png", data=written.getvalue())
    if kind != "text":
        message.header.stamp.sec, message.header.stamp.nanosec = begins_s + number // 10, number % 10 * 100_000_000
    publisher.publish(message)

node.create_timer(0.1, publish)
rclpy.spin(node)
"""
"""Arguments: `raw`, `jpeg` or `text`, the topic, and the second at which the camera's clock begins; ten messages a second."""


@pytest.fixture(autouse=True)
def own_domain(monkeypatch):
    """What other ROS systems in this network say is not heard."""
    monkeypatch.setenv("ROS_DOMAIN_ID", "73")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_pictures_of_a_running_system_are_frames_with_the_time_of_their_header(kind):
    topic = f"/camera/{kind}"
    source = open_live([f"front=ros2:{topic}"], rate_hz=1e9)
    with process(PUBLISHER, kind, topic, 1000), running(source) as stream:
        frames = [next_frame(stream) for _ in range(5)]
        started = [notice for notice in source.take_notices() if notice.name == "camera_started"]
    times = [item.capture_time_ns or 0 for item in frames]
    assert times == sorted(set(times))
    for item, time_ns in zip(frames, times, strict=True):
        number = round((time_ns / 1e9 - 1000) * 10)
        assert np.array_equal(item.image[0, 0], (10, 20, number % 200))
        assert item.id == f"live#front@{time_ns}"
    assert started[0].detail["type"].startswith("sensor_msgs/msg/")


def test_a_publisher_that_goes_and_comes_again_is_heard_again():
    topic = "/camera/gone"
    source = open_live([f"ros2:{topic}"], rate_hz=1e9)
    with running(source) as stream:
        with process(PUBLISHER, "raw", topic, 1000):
            first = next_frame(stream)
        with process(PUBLISHER, "raw", topic, 5000):
            again = next_frame(stream)
            while (again.capture_time_ns or 0) < 5000e9:
                again = next_frame(stream)
    assert again.frame_index > first.frame_index


def test_a_topic_that_carries_no_pictures_is_lost_with_the_types_that_are_read():
    source = open_live(["ros2:/words"])
    with process(PUBLISHER, "text", "/words", 0), running(source) as stream:
        lost = wait_for_event(stream, source, "camera_lost")
    assert "carries std_msgs/msg/String; sensor_msgs/msg/Image and" in str(lost["reason"])
