"""Fixtures of the end-to-end tests: a stage that is always torn down, logs in failure reports, and figures."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from tests.e2e.processes import Stage


@pytest.fixture
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("stage"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("stage"))
    yield made
    made.close()


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a measured figure; it is also in the summary at the end of the session."""

    def tell(text: str) -> None:
        print(text)
        request.node.user_properties.append(("figure", text))

    return tell


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Figures travel in the reports of the tests, so that those of other test processes are there as well."""
    ended = [report for reports in terminalreporter.stats.values() for report in reports if hasattr(report, "when")]
    figures = [
        f"{report.nodeid.rpartition('::')[2]}: {text}"
        for report in ended
        if report.when == "call"
        for kind, text in report.user_properties
        if kind == "figure"
    ]
    if figures:
        terminalreporter.section("end-to-end figures")
        for line in figures:
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of all processes with a failure."""
    report = yield
    if report.failed:
        for stage in Stage.alive:
            stage.dump_stacks()
            report.sections += [(f"log {name}", tail) for name, tail in stage.tails()]
    return report
