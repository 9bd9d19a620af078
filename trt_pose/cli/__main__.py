"""``python -m trt_pose.cli``."""

from __future__ import annotations

from . import main

main()
