"""Authenticate, fetch two things at once with the token, combine them. The engine makes the requests itself.

stepwire dev examples/flows/accounts.py:host
stepwire run fetch_accounts --input '"http://127.0.0.1:8000"'
"""

from __future__ import annotations

from typing import Any

import stepwire

host = stepwire.Host("accounts")


def combine(users: list[dict[str, Any]], products: list[dict[str, Any]]) -> list[str]:
    """One line per user and product."""
    return [f"{user['name']}: {product['name']}" for user in users for product in products]


@host.flow
async def fetch_accounts(ctx: stepwire.Context, api: str) -> list[str]:
    """No slot of this host is held while the API answers."""
    answer = await ctx.step.call("authenticate", f"{api}/auth", method="POST", json={"user": "demo"}, retries=3)
    bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
    users, products = await ctx.group.parallel(
        (
            lambda: ctx.step.call("fetch-users", f"{api}/users", headers=bearer, retries=3),
            lambda: ctx.step.call("fetch-products", f"{api}/products", headers=bearer, retries=3),
        )
    )
    return await ctx.step.run("combine", combine, users.json(), products.json())
