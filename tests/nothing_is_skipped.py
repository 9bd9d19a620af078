"""A hook for the host on which everything is to run. It imports little, for the test that runs it by itself."""

import os

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """On a GPU host that is to run everything, a test that is skipped has failed."""
    report = yield
    if report.skipped and os.environ.get("TRT_POSE_REQUIRE_GPU") == "1" and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, and here everything is to run: {report.longrepr}"
    return report
