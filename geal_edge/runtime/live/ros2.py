"""A topic of a running ROS 2 system: `ros2:/camera/image_raw`, sensor_msgs Image or CompressedImage.

Needs the system's rclpy: source its setup.bash before `geal-edge`. We subscribe with best effort and a depth of one, so that a
publisher never waits for us, and take messages as they were serialised: they are read by the same code as recorded ones
(sources/rosmessages.py).
"""

import time
from collections.abc import Callable
from threading import Event
from typing import Any

from geal_edge.errors import FrameError, MissingDependency, SourceError, UsageError
from geal_edge.runtime.live.camera import HEED_S, Intake, Picture, Shot
from geal_edge.runtime.sources import pixels
from geal_edge.runtime.sources.bagfile import Channel
from geal_edge.runtime.sources.images import require_pillow
from geal_edge.runtime.sources.rosmessages import CompressedPicture, plain_type, readable_picture, stamp_ns

TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class Ros2Camera:
    """Named after its topic, unless `name` says otherwise. The topic need not be there yet. Raises MissingDependency without
    rclpy."""

    def __init__(self, topic: str, *, name: str | None = None) -> None:
        if not topic.startswith("/"):
            raise UsageError(f"ros2:{topic}: a topic begins with a slash, as in ros2:/camera/image_raw")
        require_pillow()
        _rclpy()
        self.name = name or topic
        self._topic = topic
        self.spec = f"ros2:{topic}"

    def watch(self, intake: Intake, stopped: Event) -> None:
        rclpy = _rclpy()
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
        from sensor_msgs import msg

        context = rclpy.Context()
        rclpy.init(context=context)
        try:
            node = rclpy.create_node("geal_edge", context=context)
            executor = SingleThreadedExecutor(context=context)
            executor.add_node(node)
            type_ = self._type(node, executor, stopped)
            if type_ is None:
                return
            channel = Channel(topic=self._topic, type=plain_type(type_), encoding="cdr")
            newest = QoSProfile(depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)

            def take(message: bytes) -> None:
                intake.offer(shot_of(channel, message))

            node.create_subscription(getattr(msg, type_.rpartition("/")[2]), self._topic, take, newest, raw=True)
            intake.notice("camera_started", type=type_)
            while not stopped.is_set():
                executor.spin_once(timeout_sec=HEED_S)
        finally:
            rclpy.shutdown(context=context)

    def _type(self, node: Any, executor: Any, stopped: Event) -> str | None:
        """The topic's type, once somebody publishes it; None where we are stopped before. Raises SourceError."""
        while not stopped.is_set():
            for topic, types in node.get_topic_names_and_types():
                if topic == self._topic:
                    for type_ in TYPES:
                        if type_ in types:
                            return type_
                    raise SourceError(f"{self.spec}: carries {', '.join(types)}; {' and '.join(TYPES)} are read")
            executor.spin_once(timeout_sec=HEED_S)
        return None


def shot_of(channel: Channel, message: bytes, *, wall_ns: Callable[[], int] = time.time_ns) -> Shot:
    """A serialised message as a shot; its time is the header's stamp, or that of arrival where that is 0."""

    def read() -> Picture:
        picture = readable_picture(channel, message)
        return bytes(picture.data) if isinstance(picture, CompressedPicture) else pixels.rgb(picture)

    try:
        time_ns = stamp_ns(channel, message)
    except FrameError:
        time_ns = 0  # `read` says why
    return Shot(capture_time_ns=time_ns or wall_ns(), read=read)


def _rclpy() -> Any:
    try:
        import rclpy
    except ImportError as error:
        raise MissingDependency(
            "Topics need ROS 2's own rclpy, which no package index has: source the setup.bash of the ROS 2 installation, and "
            "run geal-edge with its Python"
        ) from error
    return rclpy
