"""Stepwire: flows made of durable steps. This package is the host side; the engine is `stepwire engine`.

import stepwire

host = stepwire.Host("orders")

@host.flow
async def checkout(ctx: stepwire.Context, order: dict) -> str:
    return await ctx.step.run("charge", charge, order)
"""

from __future__ import annotations

from stepwire.client import Client, ClientSync
from stepwire.context import Context, ContextSync, current_attempt
from stepwire.errors import (
    AmbiguousStep,
    BodyEvicted,
    ConfigurationError,
    EngineUnavailable,
    GroupFailed,
    InvalidInput,
    NestedStepError,
    NonDeterministicFlow,
    NonRetryable,
    OutputUnserializable,
    PayloadTooLarge,
    RetryAfter,
    RunCancelled,
    RunFailed,
    RunNotFound,
    StepError,
    StepTimeout,
    StepwireError,
    UnawaitedStep,
)
from stepwire.host import Host
from stepwire.protocol.plan import ParallelMode
from stepwire.retry import Retry

__all__ = (
    "AmbiguousStep",
    "BodyEvicted",
    "Client",
    "ClientSync",
    "ConfigurationError",
    "Context",
    "ContextSync",
    "EngineUnavailable",
    "GroupFailed",
    "Host",
    "InvalidInput",
    "NestedStepError",
    "NonDeterministicFlow",
    "NonRetryable",
    "OutputUnserializable",
    "ParallelMode",
    "PayloadTooLarge",
    "Retry",
    "RetryAfter",
    "RunCancelled",
    "RunFailed",
    "RunNotFound",
    "StepError",
    "StepTimeout",
    "StepwireError",
    "UnawaitedStep",
    "current_attempt",
)
