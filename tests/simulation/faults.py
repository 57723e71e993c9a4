"""What can go wrong in a world, by name. Which of it happens, when and to whom comes from the seed.

Crashes between two steps of a process are not here: they are a chance at every boundary (`World.step_crashes`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.clocks import JUMP_SECONDS_MAX
from tests.simulation.hosts import SimHost

if TYPE_CHECKING:
    from tests.simulation.simulator import World

CLOCK_RESTS_SECONDS = 0.5
"""A clock that is wrong for less than that between two looks of the engine can be wrong without its knowing."""

Fault = Callable[["World"], None]


def cut(world: World) -> None:
    """A link is cut; both ends see it soon."""
    link = world.any_link()
    if link is not None:
        world.note("link cut")
        world.network.cut(link)


def dark(world: World) -> None:
    """Nothing passes any more, and nobody is told for a while."""
    link = world.any_link()
    if link is not None:
        world.note("dark link")
        world.network.dark(link, ("engine", "host"))


def half_open(world: World) -> None:
    """One direction swallows everything."""
    link = world.any_link()
    if link is not None:
        end = world.rng.choice(["engine", "host"])
        world.note(f"half-open link, nothing reaches the {end}")
        world.network.dark(link, (end,))


def delay(world: World) -> None:
    """One direction is late, up to longer than an engine waits."""
    link = world.any_link()
    if link is not None:
        end = world.rng.choice(["engine", "host"])
        world.note(f"slow link to the {end}")
        world.network.delay(link, end, world.rng.choice([0.3, 1.0, 2.5, 6.0]), world.rng.uniform(0.2, 3.0))


def flap(world: World) -> None:
    """A host's links break again and again."""
    world.note("flapping link")
    world.network.flap(world.any_host(), world.rng.randint(2, 6))


def crash_engine(world: World) -> None:
    world.engine.crash()


def pause_engine(world: World) -> None:
    """SIGSTOP, and SIGCONT later."""
    if world.core is not None:
        world.engine.stall(world.rng.choice([0.5, 1.5, 4.0, 10.0]))


def drain_engine(world: World) -> None:
    """SIGTERM."""
    world.engine.drain(world.rng.choice([0.1, 1.0, 3.0]))


def crash_host(world: World) -> None:
    world.note("host crash")
    world.replace(world.any_host())


def pause_host(world: World) -> None:
    """SIGSTOP, or the GIL held: shorter and longer than a session lasts."""
    host = world.any_host()
    seconds = world.rng.choice([0.5, 2.0, 5.0, 9.0])
    world.note(
        "host stopped for less than its session" if seconds < 4.0 else "host stopped for longer than its session"
    )
    host.stop_for(seconds)


def block_loop(world: World) -> None:
    """User code blocks the loop; Reports go on."""
    world.note("user loop blocked")
    world.any_host().block_for(world.rng.choice([0.3, 2.0, 6.0]))


def leave(world: World) -> None:
    """SIGTERM of a host: it drains, or says goodbye at once with work in its hands."""
    host = world.any_host()
    if world.rng.random() < 0.5:
        world.note("host drains")
        host.leave(world.rng.choice([0.5, 3.0]), lambda: world.replace(host))
    else:
        world.note("host left")
        host.leave(0.0, lambda: world.replace(host))


def twin(world: World) -> None:
    """A second process comes with the identity of one that runs, and both go on."""
    host = world.any_host()
    if len(world.hosts) < 6 and not host.leaving:
        fresh = SimHost(world, host.name, host.flows, host.options, instance=host.instance)
        world.hosts.append(fresh)
        fresh.connect()


def evict(world: World) -> None:
    """A host gives a body back in the middle of its life."""
    host = world.any_host()
    bodies = [run_id for run_id, body in sorted(host.bodies.items()) if not (body.undoing or body.ended)]
    if bodies and not (host.gate.shut or host.loop.shut):
        in_code = [run_id for run_id in bodies if not host.bodies[run_id].quiet]
        run_id = world.rng.choice(in_code or bodies)
        world.note("evict")
        if not host.bodies[run_id].quiet:
            world.note("evict in user code")
        host.give_back(run_id)


def stall(world: World) -> None:
    """User code holds up the replay of its body, or does not do again what is recorded."""
    host = world.any_host()
    bodies = [run_id for run_id, body in sorted(host.bodies.items()) if not body.at_frontier]
    if bodies and not (host.gate.shut or host.loop.shut):
        world.note("body stalled")
        host.fail_body(world.rng.choice(bodies))


def refuse(world: World) -> None:
    """The store refuses one commit."""
    world.disk.refuse_next = world.core is not None


def fill_disk(world: World) -> None:
    """Every commit is refused for a while, greetings of hosts as well; then there is space again."""
    world.note("disk full")
    seconds = world.rng.choice([0.3, 1.0, 4.0])
    world.disk.full_until = max(world.disk.full_until, world.now + seconds)
    world.disturbed(world.disk.full_until)


def damage(world: World) -> None:
    """The journal of one run cannot be read any more."""
    runs = [facts.number for facts in world.truth.runs.values() if facts.ended is None]
    if runs and not world.disk.store.damaged and world.rng.random() < 0.5:
        world.note("journal damaged")
        world.disk.store.damaged.add(world.rng.choice(runs))


def set_clock(world: World) -> None:
    """The wall clock of the engine's machine jumps."""
    if world.now - world.clock.set_at < CLOCK_RESTS_SECONDS:
        return
    world.note("wall clock set")
    world.clock.set_at = world.now
    world.clock.jump(world.rng.uniform(-JUMP_SECONDS_MAX, JUMP_SECONDS_MAX))


FAULTS: dict[str, Fault] = {
    "cut": cut,
    "dark": dark,
    "half_open": half_open,
    "delay": delay,
    "flap": flap,
    "engine": crash_engine,
    "pause_engine": pause_engine,
    "drain": drain_engine,
    "host": crash_host,
    "pause_host": pause_host,
    "block": block_loop,
    "leave": leave,
    "twin": twin,
    "evict": evict,
    "stall": stall,
    "refuse": refuse,
    "full": fill_disk,
    "damage": damage,
    "clock": set_clock,
}
