"""Declared flows are checked where they are declared, and say loudly when their groups fail (MISSION S9, O12, O13)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import Compensation, ConfigurationError, Flow, Retry, Step
from stepwire.flow import FlowFunction
from stepwire.protocol.plan import DEFAULT_RETRY, Backoff, RetryPolicy
from stepwire.retry import retry_policy


def nothing() -> None: ...


def flow() -> Flow:
    return Flow("f").step("first", nothing)


def group(*names: str) -> list[Step]:
    return [Step(name, nothing) for name in names]


# ---- names (2.2: all four kinds of duplicates)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda f: f.step("first", nothing), "has a step named 'first' already"),
        (lambda f: f.parallel("g", group("a", "a")), "has a step of group 'g' named 'a' already"),
        (lambda f: f.parallel("g", group("a")).parallel("g", group("b")), "has a group named 'g' already"),
        (lambda f: f.parallel("first", group("a")), "has a step named 'first' already"),
        (lambda f: f.parallel("g", group("a")).step("g", nothing), "has a group named 'g' already"),
        (lambda f: f.parallel("g", group("g")), "has a group named 'g' already"),
        (lambda f: f.parallel("g", group("first")), "has a step named 'first' already"),
        (lambda f: f.parallel("g", group("a")).parallel("h", group("a")), "has a step of group 'g' named 'a' already"),
    ],
    ids=[
        "two steps",
        "inside one group",
        "two groups",
        "a group like a step",
        "a step like a group",
        "a member like its group",
        "a member like a step",
        "members of two groups",
    ],
)
def test_a_name_is_given_once(declare: Callable[[Flow], Flow], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        declare(flow())


def test_what_is_refused_leaves_the_flow_as_it_was() -> None:
    declared = flow()
    before = declared.describe()
    for refused in (group("a", "a"), [Step("a", nothing), Step("b", nothing, needs=["a"])]):
        with pytest.raises(ConfigurationError):
            declared.parallel("g", refused)
    assert declared.describe() == before
    assert declared.parallel("g", group("a")).step("b", nothing) is declared


@pytest.mark.parametrize("name", ["", "x" * 257, "\ud800", "stepwire:call", 7, None])
def test_bad_names_are_refused(name: Any) -> None:
    for declare in (
        lambda: Step(name, nothing),
        lambda: flow().step(name, nothing),
        lambda: flow().parallel(name, ()),
    ):
        with pytest.raises(ConfigurationError):
            declare()


def test_any_other_name_is_fine() -> None:
    """Also those that paths escape."""
    assert Step("a/b#2 [0] %", nothing).name == "a/b#2 [0] %"


# ---- dependencies


def test_o12_a_step_that_depends_on_its_sibling_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'b' needs 'a', which stands in the same group") as refused:
        flow().parallel("g", [Step("a", nothing), Step("b", nothing, needs=["a"])])
    assert "move 'b' behind the group" in str(refused.value)
    with pytest.raises(ConfigurationError, match="same group"):
        flow().parallel("g", [Step("a", nothing, needs=["b"]), Step("b", nothing)])


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (["nobody"], "needs 'nobody', which is not declared before it"),
        (["later"], "needs 'later', which is not declared before it"),
        (["s"], "needs itself"),
    ],
)
def test_what_a_step_needs_is_declared_before(needs: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        flow().step("s", nothing, needs=needs).step("later", nothing)
    with pytest.raises(ConfigurationError):
        flow().parallel("g", [Step("s", nothing, needs=needs)]).step("later", nothing)


def test_a_step_may_need_steps_members_and_groups_before_it() -> None:
    needs = ("first", "a", "g")
    declared = flow().parallel("g", group("a")).step("b", nothing, needs=needs)
    declared.parallel("h", [Step("c", nothing, needs=needs)])
    assert declared.describe()["items"][2]["needs"] == list(needs)


def test_needs_is_not_one_text() -> None:
    with pytest.raises(ConfigurationError, match="several names"):
        Step("b", nothing, needs="first")


# ---- functions


async def one(state: Any) -> None: ...


async def of_no_state() -> None: ...


class Callable1:
    async def __call__(self, state: Any) -> None: ...


@pytest.mark.parametrize(
    "fn",
    [one, of_no_state, nothing, Callable1(), Callable1().__call__, functools.partial(one), print, dict, lambda i=1: i],
)
def test_functions_of_the_state_and_of_nothing_are_fine(fn: Callable[..., Any]) -> None:
    assert Step("s", fn).fn is fn


@pytest.mark.parametrize("fn", [7, None, "print", lambda a, b: None, lambda *, a: None])
def test_other_functions_are_refused(fn: Any) -> None:
    with pytest.raises(ConfigurationError, match="step 's'"):
        Step("s", fn)


def test_a_registered_step_gets_values() -> None:
    host = stepwire.Host("h")

    @host.step(retries=7)
    def charge(amount: int) -> str:
        return f"charged {amount}"

    @host.step
    def audit() -> None: ...

    with pytest.raises(ConfigurationError, match="takes values, not the state"):
        Step("charge", charge)
    Step("audit", audit)
    assert Step("charge", charge, argument=lambda state: 1).retries is None
    with pytest.raises(ConfigurationError, match="does not take one"):
        Step("audit", audit, argument=lambda state: 1)
    with pytest.raises(ConfigurationError, match=r"@host\.step"):
        Step("audit", audit, abandon_after=1)
    with pytest.raises(ConfigurationError, match="takes values, not the state"):
        Step("a", nothing, compensate=host.step(name="undo")(lambda state, output, error: None))


@pytest.mark.parametrize("argument", [1, one, "x"])
def test_the_argument_is_made_by_a_plain_function(argument: Any) -> None:
    with pytest.raises(ConfigurationError, match="argument="):
        Step("s", one, argument=argument)


def test_a_compensation_takes_at_most_state_output_and_error() -> None:
    for fits in (nothing, lambda output: 1, lambda output, error: 1, lambda state, output, error: 1):
        assert Step("s", nothing, compensate=fits).compensate == Compensation(fits)
    with pytest.raises(ConfigurationError, match="takes 4 arguments"):
        Step("s", nothing, compensate=lambda a, b, c, d: None)
    with pytest.raises(ConfigurationError):
        Step("s", nothing, compensate=7)  # type: ignore[arg-type]


def test_an_annotation_that_means_nothing_is_refused_at_once() -> None:
    def fn() -> Missing: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match="Missing"):
        Step("s", fn)


# ---- options


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({}, None),
        ({"retries": 5}, RetryPolicy(max_attempts=6)),
        ({"retries": Retry(retries=1, jitter=0)}, RetryPolicy(max_attempts=2, jitter=0.0)),
        ({"retry_delay": "250ms"}, RetryPolicy(delay=0.25)),
        (
            {"retries": 2, "retry_delay": "2s", "backoff": "linear", "jitter": False, "max_retry_delay": "5s"},
            RetryPolicy(3, Backoff.LINEAR, delay=2.0, cap=5.0, jitter=0.0),
        ),
        ({"retries": 0, "backoff": "fixed", "jitter": True}, RetryPolicy(1, Backoff.FIXED, jitter=1.0)),
        ({"jitter": 0.5, "backoff": "exponential"}, RetryPolicy(jitter=0.5)),
    ],
)
def test_o4_words_of_retries(options: dict[str, Any], policy: RetryPolicy | None) -> None:
    assert retry_policy(Step("s", nothing, **options).retries) == policy


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"retries": True},
        {"retries": "3"},
        {"retries": Retry(), "jitter": 0.5},
        {"retry_delay": -1},
        {"retry_delay": "soon"},
        {"backoff": "quadratic"},
        {"jitter": 2},
        {"jitter": "much"},
        {"max_retry_delay": "500d"},
        {"timeout": -1},
        {"timeout": "10"},
        {"deadline": 0},
        {"abandon_after": -1},
    ],
    ids=str,
)
def test_bad_options_of_steps_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Step("s", nothing, **options)
    with pytest.raises(ConfigurationError):
        flow().step("s", nothing, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"fail": "some"},
        {"fail": None},
        {"fail": 1},
        {"fail": "never", "fail_fast": True},
        {"fail": "any", "quorum": 1},
        {"fail": "never", "quorum": 1},
        {"fail_fast": True, "quorum": 1},
        {"quorum": 0},
        {"quorum": 3},
        {"quorum": True},
        {"quorum": 1.0},
        {"limit": 0},
        {"limit": True},
        {"limit": "2"},
        {"deadline": 0},
        {"deadline": -1},
    ],
    ids=str,
)
def test_bad_options_of_groups_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        flow().parallel("g", group("a", "b"), **options)


def test_fail_fast_is_fail_any() -> None:
    policies = [
        flow().parallel("g", group("a"), **options).describe()["items"][1]
        for options in ({"fail_fast": True}, {"fail": "any"}, {"fail": "any", "fail_fast": True})
    ]
    assert policies[0] == policies[1] == policies[2]
    assert policies[0]["fail"] == "any"


def test_an_empty_group_has_no_quorum() -> None:
    with pytest.raises(ConfigurationError, match="here 0"):
        flow().parallel("g", (), quorum=1)


def test_members_are_steps() -> None:
    with pytest.raises(ConfigurationError, match=r"member 1 is dict, not a Step"):
        flow().parallel("g", [Step("a", nothing), {"name": "b", "fn": nothing}])  # type: ignore[list-item]
    assert (
        flow().parallel("g", (Step(name, nothing) for name in "ab")).describe()["items"][1]["steps"][1]["step"] == "b"
    )


def test_the_input_is_a_type() -> None:
    with pytest.raises(ConfigurationError, match="is a type"):
        Flow("f", input="Order")
    with pytest.raises(ConfigurationError, match="cannot be decoded"):
        Flow("f", input=list[int] | set[int])


@pytest.mark.parametrize("options", [{"deadline": 0}, {"on": 7}], ids=str)
def test_bad_options_of_flows_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Flow("f", **options)


@pytest.mark.parametrize("name", ["", "x" * 257, "stepwire:f"])
def test_bad_names_of_flows_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        Flow(name)


# ---- on a host


def test_a_flow_on_a_host_is_one_of_its_flows() -> None:
    host = stepwire.Host("h")
    declared = Flow("f", deadline="10m", undo_on_cancel=True, on="order/paid").step("s", nothing)
    assert host.add(declared) is declared
    assert isinstance(declared, FlowFunction) and host.flows == {"f": declared}
    (options,) = host.hello().flow_options
    assert (options.flow, options.deadline, options.undo_on_cancel) == ("f", 600.0, True)
    assert [trigger.event for trigger in options.triggers] == ["order/paid"]


def test_nothing_is_added_to_a_flow_on_a_host() -> None:
    declared = flow()
    host = stepwire.Host("h")
    host.add(declared)
    with pytest.raises(ConfigurationError, match="declare all of it first"):
        declared.step("s", nothing)
    with pytest.raises(ConfigurationError, match="declare all of it first"):
        declared.parallel("g", ())
    for other in (host, stepwire.Host("other")):
        with pytest.raises(ConfigurationError, match="on a host already"):
            other.add(declared)


def test_a_flow_whose_name_is_taken_on_a_host_stays_free() -> None:
    host = stepwire.Host("h")
    host.add(flow())
    declared = flow()
    with pytest.raises(ConfigurationError, match="registered twice"):
        host.add(declared)
    assert stepwire.Host("other").add(declared.step("s", nothing)) is declared


def test_a_failure_handler_needs_the_host() -> None:
    declared = flow()
    with pytest.raises(ConfigurationError, match="belongs to no host"):
        declared.on_failure(print)
    host = stepwire.Host("h")

    def handler(failed: Any) -> None: ...

    host.add(declared).on_failure(handler)
    assert list(host.flows) == ["f", "f.on_failure"]


# ---- what it says of itself


def test_o13_policies_are_shown() -> None:
    declared = (
        Flow("fetch-and-process")
        .parallel("fetch-data", [Step("fetch-user", nothing, timeout="5s"), Step("fetch-posts", nothing, retries=0)])
        .parallel("pay", group("a", "b"), fail_fast=True, cancel_siblings=True)
        .parallel("mails", group("c", "d", "e"), quorum=2, limit=2, deadline="1m")
        .parallel("extras", (), fail="never")
        .step("process-all", nothing, compensate=nothing, needs=["fetch-data"], backoff="fixed", deadline=7)
    )
    assert declared.show() == (
        "flow fetch-and-process\n"
        "  1. fetch-data: FAILS ONLY IF ALL of its 2 steps fail; fewer failures are tolerated;"
        " waits until every step has settled\n"
        "       - fetch-user: up to 4 attempts, exponential delay from 1 s; timeout 5 s each\n"
        "       - fetch-posts: no retries\n"
        "  2. pay: FAILS IF ANY of its 2 steps fails; ends as soon as that is certain and cancels the rest\n"
        "       - a: up to 4 attempts, exponential delay from 1 s\n"
        "       - b: up to 4 attempts, exponential delay from 1 s\n"
        "  3. mails: FAILS UNLESS AT LEAST 2 of its 3 steps succeed; other failures are tolerated;"
        " waits until every step has settled; at most 2 at once; ends after 60 s at the latest\n"
        "       - c: up to 4 attempts, exponential delay from 1 s\n"
        "       - d: up to 4 attempts, exponential delay from 1 s\n"
        "       - e: up to 4 attempts, exponential delay from 1 s\n"
        "  4. extras: NEVER FAILS; failures of its 0 steps are tolerated; waits until every step has settled\n"
        "  5. process-all: up to 4 attempts, fixed delay from 1 s; deadline 7 s; compensated; needs fetch-data"
    )
    described = declared.describe()
    assert described["name"] == "fetch-and-process"
    assert [item.get("fail") for item in described["items"]] == ["all", "any", "quorum", "never", None]
    mails = {**described["items"][2], "policy": "", "steps": ()}
    assert mails == {
        "group": "mails",
        "fail": "quorum",
        "quorum": 2,
        "policy": "",
        "cancel_siblings": False,
        "limit": 2,
        "deadline": 60.0,
        "steps": (),
    }
    assert described["items"][0]["steps"][0] == {
        "step": "fetch-user",
        "retries": DEFAULT_RETRY.max_attempts - 1,
        "retry_delay": 1.0,
        "backoff": "exponential",
        "jitter": 0.1,
        "max_retry_delay": 60.0,
        "timeout": 5.0,
        "deadline": None,
        "compensated": False,
        "redacted": [],
        "needs": [],
    }


def test_the_own_policy_of_a_registered_step_is_shown() -> None:
    host = stepwire.Host("h")
    audit = host.step(name="audit", retries=Retry(retries=1, backoff="fixed", delay="3s"))(nothing)
    assert "audit: up to 2 attempts, fixed delay from 3 s" in Flow("f").step("audit", audit).show()
    assert "audit: no retries" in Flow("f").step("audit", audit, retries=0).show()
