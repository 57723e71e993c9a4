"""Three checks at once, then one step that needs all of them.

stepwire dev examples/flows/coffee.py:host
stepwire run make_coffee --input '"espresso"'
"""

from __future__ import annotations

import stepwire

host = stepwire.Host("coffee")

STOCK = {"coffee-beans": 500, "cups": 12, "milk": 3}
INPUT = "espresso"


def check_inventory(item: str) -> bool:
    """A query to the shop's stock."""
    return STOCK[item] > 0


def brew(kind: str) -> str:
    """What the customer gets."""
    return f"one {kind}"


@host.flow
async def make_coffee(ctx: stepwire.Context, kind: str) -> str:
    """Check beans, cups and milk at the same time; brew only if everything is there."""
    beans, cups, milk = await ctx.group.parallel(
        (
            lambda: ctx.step.run("check-coffee-beans", check_inventory, "coffee-beans"),
            lambda: ctx.step.run("check-cups", check_inventory, "cups"),
            lambda: ctx.step.run("check-milk", check_inventory, "milk"),
        )
    )
    if not (beans and cups and milk):
        return "sorry, we are out of something"
    return await ctx.step.run("brew-coffee", brew, kind)
