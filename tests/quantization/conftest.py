import pytest


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    """No test goes on where another was interrupted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
