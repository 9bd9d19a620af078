"""``python -m trt_pose.cli``."""

from . import main

main()
