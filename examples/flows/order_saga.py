"""A saga: what was done is undone when a later step fails, the last thing first, inside groups as well.

stepwire dev examples/flows/order_saga.py:host
stepwire run place_order --input '{"item": "book", "card": "declined"}'
"""

from __future__ import annotations

from typing import TypedDict

import stepwire
from stepwire import NonRetryable

host = stepwire.Host("order-saga")


class Order(TypedDict):
    """What a customer wants."""

    item: str
    card: str


INPUT: Order = {"item": "book", "card": "declined"}


def reserve(item: str) -> str:
    """Take the item off the shelf."""
    return f"reservation of {item}"


def release(reservation: str) -> None:
    """Put it back."""


def make_label(item: str) -> str:
    """Tell the carrier."""
    return f"label for {item}"


def void_label(label: str) -> None:
    """Tell the carrier otherwise."""


@host.step(retries=0)
def charge(card: str) -> str:
    """Ask the bank."""
    if card == "declined":
        raise NonRetryable("the card was declined")
    return f"charge of {card}"


@host.step
def refund(payment: str) -> None:
    """Give the money back. A registered step: any host of this service can do it, whatever happened to this one."""


@host.flow(undo_on_cancel=True)
async def place_order(ctx: stepwire.Context, order: Order) -> str:
    """Reserve, then charge and make the label at the same time."""
    await ctx.step.run("reserve", reserve, order["item"], compensate=release)
    payment, label = await ctx.group.parallel(
        (
            lambda: ctx.step.run("charge", charge, order["card"], compensate=refund),
            lambda: ctx.step.run("label", make_label, order["item"], compensate=void_label),
        )
    )
    return f"{payment}, {label}"
