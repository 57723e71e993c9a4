"""A service that forks: `preload` makes its host before and starts it in two children, `late` has started it before.

Arguments: mode, address of the engine. A process that serves prints `serving PID INSTANCE`, one that is refused
`refused PID WHY`. It ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time

import stepwire
from stepwire import Context

host = stepwire.Host("forking", drain_timeout=5)


@host.flow
async def who(ctx: Context) -> int:
    """The process that executes its step."""
    return await ctx.step.run("who", os.getpid)


def say(line: str) -> None:
    """Print with one write: text and end of line are two where there is no buffer, and lines of two processes mix."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


async def serve(engine: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    running = await host.start(engine)
    say(f"serving {os.getpid()} {running.port.session.instance_id}")
    await stop.wait()
    await host.stop()


async def refused(engine: str) -> None:
    """In a child of a process whose host runs: it cannot have it too, and ending it does nothing."""
    await host.stop()
    try:
        await host.start(engine)
    except stepwire.ConfigurationError as error:
        say(f"refused {os.getpid()} {error}")


def fork_when_served(engine: str) -> None:
    """As a library of the service might do it: on any thread, at any time."""
    while not (host._running and host._running.port.session.connected):
        time.sleep(0.01)  # gate: until the threads of the session and of gRPC are all there
    if os.fork():
        return
    asyncio.run(refused(engine))
    time.sleep(60)  # gate: the child stays, with copies of everything that its parent has open
    os._exit(0)


def main(mode: str, engine: str) -> None:
    if mode == "late":
        threading.Thread(target=fork_when_served, args=(engine,), daemon=True).start()
        asyncio.run(serve(engine))
        return
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            asyncio.run(serve(engine))
            return
        children.append(child)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(child, signal.SIGTERM) for child in children])
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
