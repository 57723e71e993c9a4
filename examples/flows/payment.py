"""Started by an event: after a charge, send the confirmation and update the user at the same time.

stepwire dev examples/flows/payment.py:host
stepwire send stripe/charge.created --data '{"email": "ada@example.com", "amount": 1200}'
"""

from __future__ import annotations

from typing import TypedDict

import stepwire

host = stepwire.Host("payment")


class Charge(TypedDict):
    """The data of the event."""

    email: str
    amount: int


INPUT: Charge = {"email": "ada@example.com", "amount": 1200}


async def send_email(address: str) -> str:
    """Hand a message to the mail service; gives its id."""
    return f"email to {address}"


def update_user(charge: Charge) -> str:
    """Note the charge in the user's account."""
    return f"{charge['email']} paid {charge['amount']}"


@host.flow(on="stripe/charge.created")
async def after_payment(ctx: stepwire.Context, event: stepwire.Event) -> dict[str, str]:
    """Plain calls and one await each would do as well; the group names what belongs together."""
    charge: Charge = event.data
    email_id, update = await ctx.group.parallel(
        (
            lambda: ctx.step.run("confirmation-email", send_email, charge["email"]),
            lambda: ctx.step.run("update-user", update_user, charge),
        )
    )
    return {"email_id": email_id, "update": update}
