"""Settings of every test: reproducible randomness, and compiled code that is kept.

Fixtures of one area stand in that area's own conftest.
The default timeout (20 s) and "warnings are errors" are in pyproject.toml.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import zlib
from collections.abc import Generator, Iterator
from typing import Any

import hypothesis
import pytest

from tests import evicting

CI = bool(os.environ.get("CI"))

# Hundreds of engines and hosts are started. Where nothing that was compiled is kept, each one compiles the project
# again, which is a third of its start, and each test process rewrites the assertions of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long it takes to make examples says something of the machine, not of the code.
PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("dev", print_blob=True, **PATIENT)
# In CI the same commit gives the same answer; looking for new examples is the work of developers' machines.
hypothesis.settings.register_profile("ci", print_blob=True, derandomize=True, database=None, **PATIENT)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if CI else "dev"))

BASE_SEED = int(os.environ.get("STEPWIRE_SEED") or (1 if CI else random.SystemRandom().randrange(2**32)))
"""The whole session's randomness follows from this number, which is in the header of the report."""
os.environ["STEPWIRE_SEED"] = str(BASE_SEED)  # test processes that this one starts use the same


ALARM_AGAIN_SECONDS = 5.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--always-evict", action="store_true", help="hosts keep no live body: every release is a replay")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--always-evict"):
        os.environ[evicting.EVICT_ENV] = "always"
    if evicting.always():
        evicting.keep_no_bodies()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if evicting.always():
        evicting.skip_marked(items)


def pytest_collection_finish() -> None:
    """What was loaded stays for the whole session: tests that collect garbage need not walk through it every time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer() -> Generator[None, object, object]:
    """The alarm of a test that takes too long rings until it is heard.

    It raises wherever the main thread is. In a callback of an event loop that is logged and forgotten, and the test,
    which has lost that callback, would wait for ever.
    """
    answer = yield
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    if left:
        signal.setitimer(signal.ITIMER_REAL, left, ALARM_AGAIN_SECONDS)
    return answer


def pytest_report_header() -> str:
    profile = hypothesis.settings.get_current_profile_name()
    bodies = "every release is a replay" if evicting.always() else "live"
    seed = f"{BASE_SEED} (repeat with STEPWIRE_SEED={BASE_SEED})"
    return f"seed: {seed}, hypothesis profile: {profile}, bodies: {bodies}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> Iterator[int]:
    """A seed of this test's own: a function of the session's seed and the test's name, shown when the test fails."""
    value = zlib.crc32(request.node.nodeid.encode(), BASE_SEED & 0xFFFFFFFF)
    print(f"seed of this test: {value} (STEPWIRE_SEED={BASE_SEED})")
    yield value


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)
