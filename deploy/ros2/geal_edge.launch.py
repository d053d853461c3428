"""Start geal-edge beside a camera:

ros2 launch geal_edge.launch.py topic:=/camera/image_raw bundle:=/opt/bundle spool:=/data/spool
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration


def generate_launch_description() -> LaunchDescription:
    topic, bundle, spool, budget = (LaunchConfiguration(name) for name in ("topic", "bundle", "spool", "budget"))
    command = ["geal-edge", "run", ["ros2:", topic], "--bundle", bundle, "--spool", spool, "--budget", budget]
    return LaunchDescription(
        [
            DeclareLaunchArgument("topic", default_value="/camera/image_raw"),
            DeclareLaunchArgument("bundle"),
            DeclareLaunchArgument("spool"),
            DeclareLaunchArgument("budget", default_value="50/day"),
            # SIGINT, which launch sends first, ends it after the frame in hand.
            ExecuteProcess(cmd=command, name="geal_edge", output="screen", respawn=True, respawn_delay=5.0),
        ]
    )
