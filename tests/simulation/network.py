"""Links between hosts and the engine: FIFO in both directions, and everything that can be wrong with them.

A link can be cut (both ends see it soon), dark (nothing passes, nobody is told for a while), half-open (one direction
swallows everything), slow (one direction is late), and it can flap. Frames are handed over as values, or in some
histories as the bytes of the wire, so that nothing that is not on the wire is relied upon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, Fault, HostFrame
from stepwire.protocol.wire import EngineFrameDecoder, HostFrameDecoder, encode_engine_frame, encode_host_frame
from stepwire_engine.core.sessions import Session
from tests.simulation.process import CALLS

if TYPE_CHECKING:
    from tests.simulation.hosts import SimHost
    from tests.simulation.simulator import World

KEEPALIVE = (1.0, 6.0)
"""Within this time (seconds) a transport that hears nothing gives its link up."""
LATENCY = (0.001, 0.03)


class Link:
    """One stream of a host.

    Attributes:
        alive: Neither end has given it up.
        doubtful: Something was wrong with it; the engine may have lost what it gave over it, or taken that back.
        heard_by: "engine" and "host": whether that end still gets anything.
        late: Additional seconds under way, by the end that waits for it.
    """

    def __init__(self, host: SimHost) -> None:
        self.host = host
        self.alive = True
        self.doubtful = False
        self.heard_by = {"engine": True, "host": True}
        self.late = {"engine": 0.0, "host": 0.0}
        self.arrives = {"engine": 0.0, "host": 0.0}
        self.decoders = {"engine": HostFrameDecoder(), "host": EngineFrameDecoder()}


class Attachment:
    """A stream as the engine has it."""

    def __init__(self, session: Session, link: Link) -> None:
        self.session = session
        self.stream = session.stream
        self.link = link
        self.last_number = 0


class Network:
    """All links of a world.

    Args:
        wired: Frames go through the wire's encoding.
    """

    def __init__(self, world: World, *, wired: bool) -> None:
        self._world = world
        self._wired = wired
        self._attached: dict[str, Attachment] = {}
        self._links: list[Link] = []

    def dial(self, host: SimHost) -> Link:
        """A new stream of a host."""
        self._links = [link for link in self._links if link.alive]
        link = Link(host)
        self._links.append(link)
        return link

    # ---- frames

    def send(self, link: Link, to: str, frame: EngineFrame | HostFrame) -> None:
        """Put a frame on its way, if the link takes it anywhere."""
        world = self._world
        if isinstance(frame, EngineFrame):
            world.truth.rights.sent(frame)
        if not (link.alive and link.heard_by[to]):
            return
        arrival = max(link.arrives[to], world.now + world.rng.uniform(*LATENCY) + link.late[to])
        link.arrives[to] = arrival
        told = frame.runs if isinstance(frame, EngineFrame) else ()
        stops = [section.run_id for section in told if world.truth.rights.stops(section)]
        carried: object = frame
        if self._wired and link.host.name != CALLS:
            world.note("frame over the wire")
            alike = world.alike and link.host.session.alike
            if isinstance(frame, EngineFrame):
                carried = encode_engine_frame(frame, alike=alike)
            else:
                carried = encode_host_frame(frame, alike=alike)
        world.at(arrival - world.now, lambda: self._arrive(link, to, carried, stops))

    def _arrive(self, link: Link, to: str, carried: object, stops: list[str]) -> None:
        gate = link.host.gate if to == "host" else self._world.engine.gate
        gate.act(lambda: self._deliver(link, to, carried, stops))

    def _deliver(self, link: Link, to: str, carried: object, stops: list[str]) -> None:
        if not (link.alive and link.heard_by[to]):
            return
        frame = self._decoded(link, to, carried)
        if to == "host":
            assert isinstance(frame, EngineFrame)
            if link.host.alive and link.host.link is link:
                link.host.receive(link, frame, stops)
        else:
            assert isinstance(frame, HostFrame)
            self._world.engine.receive(link, frame)

    def _decoded(self, link: Link, to: str, carried: object) -> object:
        if not isinstance(carried, list):
            return carried
        if len(carried) > 1:
            self._world.note("frame in chunks")
        decoded = [link.decoders[to].decode(data) for data in carried]
        assert decoded[-1] is not None and not any(decoded[:-1]), "a frame is whole with its last message"
        return decoded[-1]

    # ---- the engine's end

    def attach(self, link: Link, session: Session) -> None:
        """The engine took the stream's Hello; an older stream of the instance is told that it is replaced."""
        replaced = self._attached.get(session.id)
        self._attached[session.id] = Attachment(session, link)
        if replaced is None or replaced.link is link:
            return
        if replaced.link.host is not link.host and replaced.link.alive:
            self._world.note("replaced by a process of the same identity")
        fault = Fault(ErrorCode.REPLACED, "session replaced by a newer stream of the same instance")
        self.send(replaced.link, "host", EngineFrame(number=replaced.last_number + 1, fault=fault))
        self.close(replaced.link)

    def attachment(self, session: Session) -> Attachment | None:
        """The present stream of a session."""
        found = self._attached.get(session.id)
        present = found is not None and found.session is session and found.stream == session.stream
        return found if present else None

    def by_link(self, link: Link) -> Attachment | None:
        return next((attached for attached in self._attached.values() if attached.link is link), None)

    def host_of(self, session: Session) -> SimHost | None:
        """The process at the other end of a session's last stream."""
        attached = self._attached.get(session.id)
        return None if attached is None else attached.link.host

    def engine_lost(self) -> None:
        """The engine's end of every link is gone with it."""
        for link in self._links:
            self.cut(link)
        self._links = []
        self._attached = {}

    # ---- ends

    def cut(self, link: Link) -> None:
        """The link is gone; an end that hears nothing of that finds out by itself."""
        if not link.alive:
            return
        link.alive = False
        self._trouble(link)
        self._seen_by_host(link, self._notice(link, "host"))
        self._seen_by_engine(link, self._notice(link, "engine"))

    def close(self, link: Link) -> None:
        """The engine ends the stream: what it said before still arrives, nothing else does."""
        if self._world.rng.random() < 0.3:
            self.cut(link)  # As if a reset had overtaken it.
            return
        link.heard_by["engine"] = False
        self._trouble(link)
        last = max(0.0, link.arrives["host"] - self._world.now)
        self._world.at(last + 0.001, lambda: self.cut(link))

    def dark(self, link: Link, to: tuple[str, ...]) -> None:
        """From now on nothing arrives at these ends, and the transports find out late."""
        for end in to:
            link.heard_by[end] = False
        self._trouble(link)
        self._world.at(self._world.rng.uniform(*KEEPALIVE), lambda: self.cut(link))

    def delay(self, link: Link, to: str, seconds: float, lasting: float) -> None:
        """What is sent to one end within the next time is late."""
        link.late[to] = seconds
        self._trouble(link)
        self._world.at(lasting, lambda: self._delayed(link, to))

    def _delayed(self, link: Link, to: str) -> None:
        link.late[to] = 0.0
        self._trouble(link)

    def flap(self, host: SimHost, times: int) -> None:
        """The host's links are cut again and again."""
        if host.alive and host.link is not None:
            self.cut(host.link)
        if times:
            self._world.at(self._world.rng.uniform(0.05, 0.6), lambda: self.flap(host, times - 1))

    def leave(self, link: Link) -> None:
        """The host ends the stream: what it said before still arrives."""
        link.heard_by["host"] = False
        self._trouble(link)
        last = max(0.0, link.arrives["engine"] - self._world.now)
        self._world.at(last + 0.001, lambda: self.cut(link))

    def doubt(self, link: Link) -> None:
        """The engine may believe something else from now on of what the host got over this link."""
        link.doubtful = True
        if link.host.link in (link, None):
            link.host.unknown()

    def _trouble(self, link: Link) -> None:
        self._world.disturbances += 1
        self.doubt(link)
        link.host.in_trouble()

    def _notice(self, link: Link, end: str) -> float:
        rng = self._world.rng
        return rng.uniform(0, 0.05) if link.heard_by[end] else rng.uniform(*KEEPALIVE)

    def _seen_by_host(self, link: Link, after: float) -> None:
        self._world.at(after, lambda: link.host.gate.act(lambda: link.host.link_ended(link)))

    def _seen_by_engine(self, link: Link, after: float) -> None:
        def ended() -> None:
            attached = self.by_link(link)
            if attached is not None:
                self._world.engine.stream_ended(attached)

        self._world.at(after, lambda: self._world.engine.gate.act(ended))
