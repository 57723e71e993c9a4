"""What `import stepwire` offers: few names, each on purpose. Everything else has a module to be imported from."""

from __future__ import annotations

import importlib
import inspect

import pytest

import stepwire
from stepwire import errors

NAMES_MAX = 30


def test_the_public_names_are_these() -> None:
    assert stepwire.__all__ == (
        "BranchResult",
        "Client",
        "ClientSync",
        "Compensation",
        "ConfigurationError",
        "Context",
        "ContextSync",
        "EngineUnavailable",
        "Event",
        "Flow",
        "GroupFailed",
        "GroupResult",
        "Host",
        "HttpResult",
        "InvalidInput",
        "NonDeterministicFlow",
        "NonRetryable",
        "ParallelMode",
        "Retry",
        "RetryAfter",
        "RunCancelled",
        "RunFailed",
        "RunNotFound",
        "Step",
        "StepError",
        "StepResult",
        "StepTimeout",
        "StepwireError",
        "Trigger",
        "current_attempt",
    )


def test_they_are_few_and_sorted() -> None:
    assert len(stepwire.__all__) <= NAMES_MAX
    assert sorted(stepwire.__all__) == list(stepwire.__all__)


def test_all_of_them_are_there() -> None:
    assert [name for name in stepwire.__all__ if not hasattr(stepwire, name)] == []


def test_nothing_else_is_there() -> None:
    """Classes and functions of the package that were imported for other reasons would become public by accident."""
    defined = {
        name
        for name, value in vars(stepwire).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert defined == set(stepwire.__all__)


@pytest.mark.parametrize(
    "name",
    ["AmbiguousStep", "BodyEvicted", "FlowStopped", "InvalidStepName", "LimitExceeded", "NestedStepError",
     "OutputUnserializable", "PayloadTooLarge", "ProtocolError", "UnawaitedStep", "UnknownFlow", "KeyConflict"],
)  # fmt: skip
def test_the_other_errors_have_their_own_module(name: str) -> None:
    assert issubclass(getattr(errors, name), BaseException)
    assert not hasattr(stepwire, name)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("stepwire.hooks", ["HookCall", "HookKind"]),
        ("stepwire.flow", ["RunFailure", "FlowFunction", "StepFunction"]),
        ("stepwire.testing", ["environment", "run"]),
    ],
)
def test_what_is_needed_more_rarely_has_a_place(module: str, names: list[str]) -> None:
    found = importlib.import_module(module)
    assert [name for name in names if not hasattr(found, name)] == []


def methods(client: type) -> dict[str, list[str]]:
    """Public methods of a client with their parameters."""
    return {
        name: [str(parameter).partition(":")[0] for parameter in inspect.signature(member).parameters.values()]
        for name, member in inspect.getmembers(client, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_these_methods_with_the_same_parameters() -> None:
    assert methods(stepwire.Client) == methods(stepwire.ClientSync)
    assert sorted(methods(stepwire.Client)) == [
        "cancel", "cancel_all", "close", "explain", "get", "handle", "list", "logs", "results", "resume", "run", "send",
        "start", "start_many", "watch",
    ]  # fmt: skip
    assert methods(stepwire.Client)["run"] == ["self", "flow", "*args", "id", "timeout", "**kwargs"]
