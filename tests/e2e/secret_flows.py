"""Flows whose values, headers, events and failures are secret in every way there is.

Runs as `stepwire host tests.e2e.secret_flows:host`; encrypts if the environment has keys.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import stepwire
from stepwire import Context, Event
from stepwire.codec import JSON_CODEC
from stepwire.encryption import KEYS_ENV, EncryptedCodec, Keyring
from stepwire.http import EngineSecret
from tests.e2e import observed
from tests.e2e.ledger import HOST_ENV, Pen

observed.observe(Pen.from_environment())
host = stepwire.Host(
    os.environ[HOST_ENV], codec=EncryptedCodec(Keyring.from_env()) if KEYS_ENV in os.environ else JSON_CODEC
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Secrets:
    """What must not be seen: `sealed` by nobody but hosts, `carried` by hosts, the engine and whom it calls."""

    url: str
    sealed: str
    carried: str


@host.step(redact=("input", "output"))
async def charge(card: str) -> str:
    """Takes a secret and gives it back."""
    log.info("charged a card of %d characters", len(card))
    return card


def token(sealed: str) -> str:
    return sealed


async def refused(sealed: str) -> None:
    raise stepwire.NonRetryable(f"refused: {sealed}") from KeyError(sealed)


@host.flow(redact=("input", "output"))
async def vault(ctx: Context, given: Secrets) -> list[str]:
    """Every kind of secret, in a run that succeeds."""
    card = await ctx.step.run("charge", charge, given.sealed)
    again = await ctx.step.run("token", token, card, redact="output")
    (mapped,) = await ctx.group.map("mapped-{i}", token, [again], redact="output")
    headers = {"authorization": EngineSecret("E2E", "Bearer "), "x-key": given.carried}
    called = ctx.step.call(
        "call", given.url, method="POST", headers=headers, json=given.carried, redact=("input", "output")
    )
    assert given.carried in (await called).text
    await ctx.step.send_event("send", Event("told", given.carried, redact=True))
    event = await ctx.step.wait_event("wait", "told", lookback="1h", timeout="10s")
    assert event is not None
    assert event.data == given.carried
    try:
        await ctx.step.run("refused", refused, mapped, redact="failure")
    except stepwire.StepError as error:
        assert error.type == "NonRetryable"
    return [card, again, mapped]


@host.flow(redact=("input", "failure"))
async def broken(ctx: Context, given: Secrets) -> None:
    """The same in a run that fails."""
    raise ValueError(f"cannot use {given.sealed}")
