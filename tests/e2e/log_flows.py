"""Flows that log wherever code can, to a file and through the host to the engine.

Runs as `stepwire host tests.e2e.log_flows:host`.
"""

from __future__ import annotations

import logging
import os

import stepwire
from stepwire import Context, ContextSync, current_attempt
from tests.e2e import gates
from tests.e2e.ledger import FILE_ENV, HOST_ENV

LINES = ".lines"
"""Ending of the file with the lines, beside the ledger."""
log = logging.getLogger("shop.order")
_file = logging.FileHandler(os.environ[FILE_ENV] + LINES)
_file.setFormatter(logging.Formatter("%(run_id)s|%(step)s|%(attempt)s|%(host)s|%(message)s"))
log.addHandler(_file)
log.setLevel(logging.INFO)
host = stepwire.Host(os.environ[HOST_ENV])


def _key() -> str:
    attempt = current_attempt()
    assert attempt is not None
    return f"{attempt.run_id} {attempt.path}"


def charge() -> None:
    """A step that says what it does."""
    log.info("charges")


async def ship() -> None:
    """A step that waits at its gate."""
    log.info("ships")
    await gates.pass_gate(_key())


def ship_sync() -> None:
    """The same on a thread."""
    log.info("ships")
    gates.pass_gate_sync(_key())


@host.flow
async def order(ctx: Context) -> None:
    """Lines before, between and after steps, and in branches."""
    log.info("begins")
    await ctx.step.run("charge", charge)
    log.info("charged")

    async def branch(name: str) -> None:
        log.info("%s begins", name)
        await ctx.step.run("charge", charge)
        log.info("%s ends", name)

    await ctx.group.parallel((lambda: branch("x"), lambda: branch("y")))
    log.info("to ship")
    await ctx.step.run("ship", ship)
    log.warning("ends")


@host.flow
def order_sync(ctx: ContextSync) -> None:
    """`order` as plain code."""
    log.info("begins")
    ctx.step.run("charge", charge)
    log.info("charged")

    def branch(name: str) -> None:
        log.info("%s begins", name)
        ctx.step.run("charge", charge)
        log.info("%s ends", name)

    ctx.group.parallel((lambda: branch("x"), lambda: branch("y")))
    log.info("to ship")
    ctx.step.run("ship", ship_sync)
    log.warning("ends")
