# app.py
from dataclasses import dataclass

import stepwire

host = stepwire.Host("shop")


@dataclass
class Order:
    sku: str
    quantity: int


@dataclass
class Receipt:
    payment: str
    label: str


def reserve(order: Order) -> None:
    print(f"reserved {order.quantity} x {order.sku}")


@host.step(retries=5, timeout="10s")  # registered: any host that serves it may run it
def charge(order: Order) -> str:
    return f"paid for {order.quantity} x {order.sku}"


async def make_label(order: Order) -> str:
    return f"label-{order.sku}"


@host.flow
async def order(ctx: stepwire.Context, order: Order) -> Receipt:
    await ctx.step.run("reserve", reserve, order)
    branches = (
        lambda: ctx.step.run("charge", charge, order),
        lambda: ctx.step.run("label", make_label, order),
    )
    payment, label = await ctx.group.parallel(branches)
    return Receipt(payment, label)
