"""Settings of every test: reproducible randomness. Fixtures of one area stand in that area's own conftest.

The default timeout (20 s) and "warnings are errors" are in pyproject.toml.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator

import hypothesis
import pytest

CI = bool(os.environ.get("CI"))

hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
# In CI the same commit gives the same answer; looking for new examples is the work of developers' machines.
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if CI else "dev"))

BASE_SEED = int(os.environ.get("STEPWIRE_SEED") or (1 if CI else random.SystemRandom().randrange(2**32)))
"""The whole session's randomness follows from this number, which is in the header of the report."""
os.environ["STEPWIRE_SEED"] = str(BASE_SEED)  # test processes that this one starts use the same


def pytest_report_header() -> str:
    profile = hypothesis.settings.get_current_profile_name()
    return f"seed: {BASE_SEED} (repeat with STEPWIRE_SEED={BASE_SEED}), hypothesis profile: {profile}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> Iterator[int]:
    """A seed of this test's own: a function of the session's seed and the test's name, shown when the test fails."""
    value = zlib.crc32(request.node.nodeid.encode(), BASE_SEED & 0xFFFFFFFF)
    print(f"seed of this test: {value} (STEPWIRE_SEED={BASE_SEED})")
    yield value


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)
