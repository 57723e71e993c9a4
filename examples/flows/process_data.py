"""The declarative builder: a block that fails only when all its members fail, and one that any failure fails.

stepwire dev examples/flows/process_data.py:host
stepwire run process-data --input '{"posts": "broken"}'
stepwire run process-data-strict --input '{"posts": "broken"}'
"""

from __future__ import annotations

from typing import Any

import stepwire
from stepwire import Flow, NonRetryable, Step

host = stepwire.Host("process-data")

INPUT = {"posts": "broken"}


def fetch_user(state: Any) -> str:
    """Always there."""
    return "ada"


def fetch_posts(state: Any) -> list[str]:
    """There unless the input says otherwise."""
    if state.input.get("posts") == "broken":
        raise NonRetryable("the blog is down")
    return ["hello"]


def process_all(state: Any) -> dict[str, Any]:
    """Works with what there is, and says what is missing."""
    group = state.group_result("fetch-data")
    return {"used": list(group.ok), "missing": list(group.failed)}


def fetching(name: str, *, fail_fast: bool) -> Flow:
    """The same flow with either policy."""
    return (
        Flow(name)
        .parallel(
            "fetch-data",
            [Step("fetch-user", fetch_user), Step("fetch-posts", fetch_posts)],
            fail_fast=fail_fast,
        )
        .step("process-all", process_all)
    )


host.add(fetching("process-data", fail_fast=False))
host.add(fetching("process-data-strict", fail_fast=True))
