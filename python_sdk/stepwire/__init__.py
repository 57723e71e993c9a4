"""Stepwire: flows made of durable steps. This package is the host side; the engine is `stepwire engine`.

import stepwire

host = stepwire.Host("orders")

@host.flow
async def checkout(ctx: stepwire.Context, order: dict) -> str:
    return await ctx.step.run("charge", charge, order)
"""

from __future__ import annotations

from stepwire.client import Client, ClientSync
from stepwire.compensation import Compensation
from stepwire.context import Context, ContextSync, current_attempt
from stepwire.declarative import Flow, Step
from stepwire.errors import (
    ConfigurationError,
    EngineUnavailable,
    GroupFailed,
    InvalidInput,
    NonDeterministicFlow,
    NonRetryable,
    RetryAfter,
    RunCancelled,
    RunFailed,
    RunNotFound,
    StepError,
    StepTimeout,
    StepwireError,
)
from stepwire.events import Event, Trigger
from stepwire.host import Host
from stepwire.http import HttpResult
from stepwire.protocol.plan import ParallelMode
from stepwire.results import BranchResult, GroupResult, StepResult
from stepwire.retry import Retry

__all__ = (
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
