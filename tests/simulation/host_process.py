"""The process of a simulated host, below its runtime: the real session core, its links, its clock, its threads.

The session lives on a thread of its own: while the user's loop is blocked, frames are booked and Reports go on. While
the whole process is stopped, nothing goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from stepwire._transport.session import HostSession
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, EngineSection, Feature, FlowOptions, Hello, RejectReason, Result
from stepwire.protocol.plan import CALL_STEP
from tests.simulation.clocks import Clock
from tests.simulation.network import Link
from tests.simulation.process import CALLS, Gate
from tests.simulation.programs import TASK, UNDO_TASK

if TYPE_CHECKING:
    from tests.simulation.simulator import World

BEAT_SECONDS = 0.2
_TICK_SECONDS = 0.25
"""How often the loop says that it runs, at the latest."""


class HostProcess(ABC):
    """A process with one session.

    Args:
        instance: Its identity; empty: a new one.

    Attributes:
        serial: No two processes have the same.
        gate: Shut while the process is stopped.
        loop: Shut while its user's code blocks the loop.
        link: The present stream.
        trouble_at: When something was wrong with it or its link last.
        stopped: Runs of which it was told that they stop.
    """

    def __init__(
        self,
        world: World,
        name: str,
        flows: tuple[str, ...],
        options: tuple[FlowOptions, ...],
        *,
        instance: str = "",
        gate: Gate | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.flows = flows
        self.options = options
        self.serial = world.count("born")
        self.instance = instance or (name if name == CALLS else f"{name}/{self.serial}")
        self.clock = Clock(world.rng, drifts=world.drifts)
        self.gate = gate or Gate(world)
        self.loop = Gate(world)
        self.alive = True
        self.link: Link | None = None
        self.trouble_at = world.now
        self.stopped: set[str] = set()
        self.leaving = False
        steps = (CALL_STEP,) if name == CALLS else (TASK, UNDO_TASK)
        self.session = HostSession(
            Hello(
                name,
                self.instance,
                flows,
                steps,
                slots=world.slots,
                bodies=1000,
                flow_options=options,
                ahead=world.ahead,
                features=(Feature.ALIKE,) if world.alike else (),
            )
        )
        self._via: Link | None = None

    @property
    def mono(self) -> float:
        return self.clock.mono(self.world.now)

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Do something on the loop later, if the process is still there."""

        def on_loop() -> None:
            if self.alive:
                action()

        self.world.at(delay, lambda: self.gate.act(lambda: self.loop.act(on_loop)))

    @property
    def settled(self) -> bool:
        """It goes on, and it and the engine hear each other."""
        heard = self.link is not None and self.link.alive and all(self.link.heard_by.values())
        return heard and self.session.connected and not (self.gate.shut or self.loop.shut)

    @property
    def awake_since(self) -> float:
        """Since when neither its process, nor its loop, nor the engine has been stopped."""
        gates = (self.gate, self.loop, self.world.engine.gate)
        return self.world.now if any(gate.shut for gate in gates) else max([gate.opened_at for gate in gates])

    # ---- what the runtime above does

    @abstractmethod
    def handle(self, section: EngineSection) -> None:
        """Do what the engine says about one run."""

    @abstractmethod
    def unknown(self) -> None:
        """From now on the engine may believe something else of what was given to this host."""

    @abstractmethod
    def lose_attempts(self) -> None:
        """The process is gone with everything that it executed."""

    @property
    @abstractmethod
    def handed_over(self) -> bool:
        """Nothing is executed, and everything that was is with the session."""

    # ---- life

    def in_trouble(self) -> None:
        self.trouble_at = max(self.trouble_at, self.world.now)

    def stop_for(self, seconds: float) -> None:
        """SIGSTOP, or code that holds the GIL: nothing of the process goes on."""
        self.in_trouble()
        self.gate.shut_for(seconds)
        self.world.at(seconds, self.in_trouble)

    def block_for(self, seconds: float) -> None:
        """User code blocks the loop; the session's thread goes on."""
        self.loop.shut_for(seconds)

    def lost(self) -> None:
        """The process is gone."""
        self.alive = False
        self.lose_attempts()
        if self.link is not None:
            self.world.network.cut(self.link)

    def leave(self, deadline: float, then: Callable[[], None]) -> None:
        """Drain, say goodbye, end."""
        if self.leaving:
            return
        self.leaving = True
        self.session.drain(deadline)
        self.flush()
        self._leave(self.world.now + deadline, then)

    def _leave(self, until: float, then: Callable[[], None]) -> None:
        if self.world.now < until and not (self.handed_over and self.session.settled):
            self.at(0.05, lambda: self._leave(until, then))
            return
        if self.handed_over and self.session.connected:
            self.world.note("host left with nothing to do")
        self.session.say_goodbye("drained")
        self.flush()
        link, self.link = self.link, None
        if link is not None:
            self.world.network.leave(link)
        then()

    # ---- links

    def connect(self) -> None:
        """Dial, if there is an engine to answer."""
        if not self.alive or self.link is not None:
            return
        if self.world.engine.core is None:
            self.world.at(0.1, self._connect_again)
            return
        self.link = self.world.network.dial(self)
        self.in_trouble()
        self.session.connect()
        self.flush()

    def _connect_again(self) -> None:
        self.gate.act(self.connect)

    def link_ended(self, link: Link) -> None:
        """The transport says that a stream is over."""
        if not self.alive or self.link is not link:
            return
        refused = self.session.refused
        self.session.disconnect()
        self.link = None
        if refused is not None and refused.code is ErrorCode.REPLACED:
            self.instance = f"{self.instance}~{self.world.count('renamed')}"
            self.session.rename(self.instance)
            self.world.note("went on under another name")
        if not self.leaving:
            self.world.at(self.world.rng.uniform(0.01, 0.3), self._connect_again)

    def knows(self) -> bool:
        """Whether what is begun now was given over a link with which nothing has been wrong."""
        link = self._via or self.link
        return link is not None and link is self.link and not link.doubtful

    # ---- frames

    def receive(self, link: Link, frame: EngineFrame, stops: list[str]) -> None:
        """On the session's thread: book a frame, and have the loop do what it says."""
        unacked = self._unacked_results()
        sections = self.session.receive(frame, self.mono)
        kept = self._unacked_results() if unacked else {}
        for key, (run_id, result) in unacked.items():
            if key not in kept and result.failure is None:
                self.world.acked(self, run_id, result)
        if sections or stops:
            self.loop.act(lambda: self._handle(link, sections, stops))
        self.flush()
        if self.session.refused is not None:
            self.world.network.cut(link)

    def _handle(self, link: Link, sections: list[EngineSection], stops: list[str]) -> None:
        if not self.alive:
            return
        self.stopped.update(stops)
        self._via = link
        for section in sections:
            self.handle(section)
        self._via = None
        self.flush()

    def _unacked_results(self) -> dict[int, tuple[str, Result]]:
        sections = [section for _, kept in self.session._unacked for section in kept]
        return {id(result): (section.run_id, result) for section in sections for result in section.results}

    def beat(self) -> None:
        """The threads of the process look whether there is something to say."""
        if not self.alive or self.gate.shut:
            return
        if not self.loop.shut:
            self.session.loop_ticked(self.mono, self.mono + _TICK_SECONDS)
        self.flush()

    def _begin_waiting(self) -> None:
        """On the loop: what was given ahead of free slots gets those that there are."""
        for run_id, execute in self.session.begin_waiting(self.mono):
            self.world.note("began ahead")
            self.handle(EngineSection(run_id, executes=[execute]))

    def flush(self) -> None:
        if self.alive and self.session.waiting and not (self.gate.shut or self.loop.shut):
            self._begin_waiting()
        while self.link is not None and (frame := self.session.take_frame(self.mono)) is not None:
            if any(reject.reason is RejectReason.NO_SLOT for section in frame.runs for reject in section.rejects):
                self.world.note("rejected for want of a slot")
            self.world.network.send(self.link, "engine", frame)
