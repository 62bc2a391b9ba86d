"""What all suites share: the marker for GPU tests, and one browser for those that need it."""

import pytest
import torch
from hypothesis import settings

from tests.browser import started_browser

# The same examples on every run, so that a failure can be seen again; `--hypothesis-profile default` explores.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


def pytest_collection_modifyitems(items):
    """Skip GPU tests, counted and with a reason, where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session")
def browser():
    """One browser for the session; without one the tests that need it are skipped."""
    with started_browser() as running:
        yield running
