"""Whoever waits for the same hosts takes turns: names of steps, closures with registered steps, flows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwire.protocol.plan import GroupOpened, StepPlanned
from tests.session.desk import CONFIG, Desk, Host, task

LONG = 30
"""Hand-outs after which somebody who still waits would wait for ever."""


def named(path: str, name: str = "") -> StepPlanned:
    """A registered step; its name is the first letter of its path if nothing else is said."""
    return msgspec.structs.replace(task(path), name=name or path[0])


def body_and_worker(*, steps: tuple[str, ...] = ("a", "b"), slots: int = 1, ahead: int = 0) -> tuple[Host, Host]:
    """The body of a run on a host that executes nothing, and a worker, whose pace is fast enough whatever it is."""
    desk = Desk(config=msgspec.structs.replace(CONFIG, ahead_pace=1.0))
    body = desk.host("body", steps=())
    worker = desk.host("worker", flows=(), steps=steps, slots=slots, ahead=ahead)
    desk.start()
    desk.settle()
    return body, worker


def plan(host: Host, *steps: str | StepPlanned) -> None:
    host.plan(*steps)
    host.desk.settle()


def given_to(host: Host) -> list[str]:
    """What the engine has given to this host and it has not answered, in the order in which it was given."""
    assert host.engine is not None
    return [path for _, path in host.engine.leases]


def end_oldest(host: Host) -> str:
    """The attempt that was given first succeeds; one that waits in the host takes the slot."""
    path = given_to(host)[0]
    host.ok(path)
    host.session.begin_waiting(host.desk.mono)
    host.desk.settle()
    return path


def until_given(host: Host, wanted: str, more: Callable[[int], None]) -> list[str]:
    """Attempts end, and after each there is more to do. Returns those that ended before `wanted` was given."""
    ended: list[str] = []
    while wanted not in given_to(host):
        assert len(ended) < LONG, f"{wanted} starves: {ended}"
        ended.append(end_oldest(host))
        more(len(ended))
    return ended


# ---- names of steps


def test_a_backlog_of_one_name_leaves_its_turn_to_another() -> None:
    body, worker = body_and_worker()
    plan(body, *[named(f"a{index}") for index in range(5)])
    plan(body, named("b"))
    ended = until_given(worker, "b", lambda number: plan(body, named(f"a-more-{number}")))
    assert ended == ["a0", "a1"]


def test_names_take_turns_and_their_own_steps_keep_their_order() -> None:
    body, worker = body_and_worker(steps=("a", "b", "c"))
    plan(body, named("a0"))
    plan(body, *[named(f"{name}{index}") for name in "abc" for index in (1, 2)])
    assert [end_oldest(worker) for _ in range(7)] == ["a0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_slots_that_get_free_together_are_shared() -> None:
    body, worker = body_and_worker(slots=4)
    plan(body, *[named(f"a{index}") for index in range(12)])
    plan(body, *[named(f"b{index}") for index in range(2)])
    for path in given_to(worker):
        worker.ok(path)
    body.desk.settle()
    assert given_to(worker) == ["a4", "b0", "a5", "b1"]


def test_a_name_that_waits_alone_gets_all_the_room_in_one_frame() -> None:
    body, worker = body_and_worker(slots=1_000)
    plan(body, *[named(f"a{index}") for index in range(2_000)])
    frames = len(worker.frames)
    for path in given_to(worker):
        worker.ok(path)
    body.desk._from_hosts()
    body.desk._to_hosts()
    assert given_to(worker) == [f"a{index}" for index in range(1_000, 2_000)] and len(worker.frames) == frames + 1


def test_a_name_that_comes_again_and_again_does_not_overtake_one_that_stays() -> None:
    """The queue of `a` is empty each time its step is given out: it must not be the first of a new order then."""
    body, worker = body_and_worker(steps=("a", "b", "c"))
    plan(body, named("a0"))
    plan(body, *[named(f"c{index}") for index in range(20)])
    plan(body, named("a1"), named("b"))
    ended = until_given(worker, "b", lambda number: plan(body, named(f"a-more-{number}")))
    assert len(ended) <= 3


def test_hosts_that_share_names_keep_nobody_waiting() -> None:
    """`b` has one host only, `a` both: what `a` gets elsewhere counts as its turn."""
    body, worker = body_and_worker()
    other = body.desk.host("other", flows=(), steps=("a",), slots=1)
    plan(body, *[named(f"a{index}") for index in range(8)])
    plan(body, named("b"))

    def more(number: int) -> None:
        plan(body, named(f"a-more-{number}"))
        end_oldest(other)

    assert len(until_given(worker, "b", more)) <= 2


def test_a_name_that_nobody_serves_at_present_takes_no_turns() -> None:
    body, worker = body_and_worker()
    plan(body, *[named(f"x{index}") for index in range(3)])
    plan(body, *[named(f"{name}{index}") for index in range(3) for name in "ab"])
    assert [end_oldest(worker) for _ in range(6)] == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert body.desk.host("late", flows=(), steps=("x",), slots=9).holds("x2")


def test_steps_given_ahead_take_turns() -> None:
    body, worker = body_and_worker(ahead=1)
    plan(body, *[named(f"a{index}") for index in range(6)])
    plan(body, *[named(f"b{index}") for index in range(2)])
    assert [end_oldest(worker) for _ in range(8)] == ["a0", "a1", "a2", "b0", "a3", "b1", "a4", "a5"]


def test_a_backlog_that_may_go_ahead_does_not_keep_a_step_away_that_may_not() -> None:
    """It is in a group with a limit (docs/adr/0025): nothing goes ahead while it waits, and slots are shared."""
    body, worker = body_and_worker(ahead=1)
    plan(body, *[named(f"a{index}") for index in range(6)])
    body.plan(named("parallel/[0]/b", "b"), groups=(GroupOpened("parallel", 1, limit=1),))
    body.desk.settle()
    ended = until_given(worker, "parallel/[0]/b", lambda number: plan(body, named(f"a-more-{number}")))
    assert ended == ["a0", "a1", "a2"] and given_to(worker) == ["parallel/[0]/b", "a3"]


# ---- steps that are more than ready


def test_a_group_with_a_limit_does_not_pass_its_slot_on() -> None:
    """Its place and the slot get free at the same moment: the next of the group must not take both out of turn."""
    body, worker = body_and_worker()
    limited = [named(f"parallel/[{index}]/a", "a") for index in range(20)]
    body.plan(*limited, groups=(GroupOpened("parallel", 20, limit=1),))
    body.desk.settle()
    plan(body, named("b"))
    assert until_given(worker, "b", lambda number: None) == ["parallel/[0]/a"]


def make_suspect(desk: Desk, body: Host, *paths: str) -> None:
    """Steps that have lost two hosts, so that none of them gets a host beside another."""
    plan(body, *[named(path) for path in paths])
    for number in range(2):
        host = desk.host(f"lost-{paths[0]}-{number}", flows=(), steps=(paths[0][0],))
        assert given_to(host) == list(paths)
        host.cut()
        desk.pass_time(4)


def test_suspects_of_one_name_do_not_keep_those_of_another_from_the_only_host() -> None:
    desk = Desk()
    body = desk.host("body", steps=())
    desk.start()
    desk.settle()
    make_suspect(desk, body, "a0", "a1", "a2")
    make_suspect(desk, body, "b0")
    worker = desk.host("worker", flows=(), steps=("a", "b"), slots=2)
    plan(body, *[named(f"{name}-plain-{index}") for index in range(9) for name in "ab"])
    suspects = ("a0", "a1", "a2", "b0")
    seen: list[str] = []
    for _ in range(LONG):
        held = [path for path in given_to(worker) if path in suspects]
        assert len(held) <= 1, "never two of them beside each other"
        seen += [path for path in held if path not in seen]
        if not given_to(worker):
            break
        end_oldest(worker)
    assert seen[:2] == ["a0", "b0"] and len(seen) == 4


def test_suspects_that_no_host_may_have_yet_keep_nobody_waiting() -> None:
    desk = Desk()
    body = desk.host("body", steps=())
    desk.start()
    desk.settle()
    make_suspect(desk, body, "a0", "a1")
    plan(body, named("a2"))
    worker = desk.host("worker", flows=(), steps=("a",), slots=2)
    assert given_to(worker) == ["a0", "a2"]


# ---- closures and registered steps


def both_kinds(slots: int = 1) -> Host:
    """A run on the only host, which executes its closures and registered steps of the name `a`."""
    desk = Desk()
    host = desk.host(steps=("a", "b"), slots=slots)
    desk.start()
    desk.settle()
    return host


def test_a_backlog_of_closures_leaves_every_second_slot_to_registered_steps() -> None:
    host = both_kinds()
    plan(host, *[f"c{index}" for index in range(4)])
    plan(host, named("a"))
    ended = until_given(host, "a", lambda number: plan(host, f"c-more-{number}"))
    assert len(ended) <= 2


def test_a_backlog_of_registered_steps_leaves_every_second_slot_to_closures() -> None:
    host = both_kinds()
    plan(host, *[named(f"{name}{index}") for index in range(4) for name in "ab"])
    plan(host, "c")
    ended = until_given(host, "c", lambda number: plan(host, named(f"a-more-{number}")))
    assert len(ended) <= 2


def test_closures_and_registered_steps_take_turns() -> None:
    host = both_kinds(slots=2)
    plan(host, named("a0"), named("b0"))
    plan(host, *[f"c{index}" for index in range(4)], *[named(f"{name}{index}") for index in (1, 2) for name in "ab"])
    assert [end_oldest(host) for _ in range(10)] == ["a0", "b0", "c0", "a1", "c1", "b1", "c2", "a2", "c3", "b2"]


def test_closures_that_become_ready_take_no_slot_that_registered_steps_wait_for() -> None:
    """A place in their group and the slot get free at the same moment."""
    host = both_kinds()
    limited = [StepPlanned(f"parallel/[{index}]/c") for index in range(20)]
    host.plan(*limited, groups=(GroupOpened("parallel", 20, limit=1),))
    host.desk.settle()
    plan(host, named("a"))
    assert len(until_given(host, "a", lambda number: None)) <= 2


def test_registered_steps_that_become_ready_take_no_slot_that_closures_wait_for() -> None:
    host = both_kinds()
    limited = [named(f"parallel/[{index}]/a", "a") for index in range(20)]
    host.plan(*limited, groups=(GroupOpened("parallel", 20, limit=1),))
    host.desk.settle()
    plan(host, "c")
    assert until_given(host, "c", lambda number: None) == ["parallel/[0]/a"]


# ---- bodies of flows


def entered(host: Host) -> list[str]:
    assert host.engine is not None
    return [run.run_id for run in host.engine.bodies.values()]


def test_a_backlog_of_one_flow_leaves_its_turn_to_another() -> None:
    desk = Desk()
    host = desk.host(flows=("f", "g"), bodies=1)
    for number in range(5):
        desk.start(f"f{number}", flow="f")
    desk.start("g", flow="g")
    desk.settle()
    ended: list[str] = []
    while entered(host) != ["g"]:
        assert len(ended) < LONG, f"g starves: {ended}"
        ended += entered(host)
        desk.start(f"f-more-{len(ended)}", flow="f")
        host.end(ended[-1])
        desk.settle()
    assert ended == ["f0", "f1"]


def test_bodies_take_turns_and_runs_of_a_flow_keep_their_order() -> None:
    desk = Desk()
    host = desk.host(flows=("f", "g"), bodies=1)
    for run_id in ("f0", "f1", "f2", "g1", "g2"):
        desk.start(run_id, flow=run_id[0])
    desk.settle()
    seen: list[str] = []
    while found := entered(host):
        seen += found
        host.end(found[0])
        desk.settle()
    assert seen == ["f0", "f1", "g1", "f2", "g2"]


def test_a_body_that_is_given_back_does_not_get_its_own_place_again_before_others() -> None:
    """It is wanted again in the moment in which its place gets free."""
    desk = Desk()
    host = desk.host(flows=("f", "g"), bodies=1)
    desk.start("f", flow="f")
    desk.start("g", flow="g")
    desk.settle()
    assert entered(host) == ["f"]
    host.session.give_back("f", host.seqs["f"][0])
    desk.settle()
    assert entered(host) == ["g"]


# ---- whatever happens

NAMES = ("a", "b", "c")
HOSTS = st.lists(
    st.tuples(st.sets(st.sampled_from(NAMES)), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3
)
"""What each serves, its slots, and how many steps wait there ahead of one."""
EVENTS = st.lists(
    st.tuples(st.sampled_from((*NAMES, "closure", "end", "end", "end")), st.integers(0, 11)), min_size=1, max_size=40
)


@dataclass
class Waiting:
    """A step that waits, and what it has seen.

    Attributes:
        queue: Its name; or "closure" and the run.
        place: 1 if it is the first of its queue.
        others: How many steps of other names were given meanwhile to hosts that it might have had.
        closures: How many closures were.
    """

    queue: str
    place: int
    others: int = 0
    closures: int = 0


class Played:
    """Hosts that share names; each holds a run of its own, so that each has closures as well."""

    def __init__(self, hosts: list[tuple[set[str], int, int]]) -> None:
        self.desk = Desk(config=msgspec.structs.replace(CONFIG, ahead_pace=1.0))
        self.hosts: list[Host] = []
        self.waiting: dict[tuple[str, str], Waiting] = {}
        self.given: set[tuple[str, str]] = set()
        self.planned = 0
        for number, (steps, slots, ahead) in enumerate(hosts):
            flow = f"flow-{number}"
            served = tuple(sorted(steps))
            self.hosts.append(self.desk.host(flows=(flow,), steps=served, slots=slots, ahead=ahead))
            self.desk.start(str(number), flow=flow)
        self.desk.settle()

    def ready(self, kind: str, number: int) -> None:
        """A run plans some steps of one kind."""
        run = number % len(self.hosts)
        queue = f"closure {run}" if kind == "closure" else kind
        paths = [f"{kind}{self.planned + index}" for index in range(number // 3 + 1)]
        self.planned += len(paths)
        ahead = sum(1 for other in self.waiting.values() if other.queue == queue)
        self.waiting |= {(str(run), path): Waiting(queue, ahead + i) for i, path in enumerate(paths, 1)}
        steps = [StepPlanned(path) if kind == "closure" else named(path, kind) for path in paths]
        self.hosts[run].plan(*steps, run_id=str(run))
        self._settle()

    def end(self, number: int) -> None:
        """The results of some attempts of one host come in one frame."""
        host = self.hosts[number % len(self.hosts)]
        assert host.engine is not None
        executing = [key for key in host.engine.leases if host.holds(key[1], key[0])]
        for run_id, path in executing[: number // 3 + 1]:
            host.ok(path, run_id)
        host.session.begin_waiting(self.desk.mono)
        self._settle()

    def _settle(self) -> None:
        self.desk.settle()
        for host in self.hosts:
            assert host.engine is not None
            for key in [key for key in host.engine.leases if key not in self.given]:
                self._given(host, key)

    def _given(self, host: Host, key: tuple[str, str]) -> None:
        assert host.engine is not None
        self.given.add(key)
        served = self.waiting.pop(key).queue
        might_have_had = {*host.engine.steps, f"closure {self.hosts.index(host)}"}
        for waiting in self.waiting.values():
            if waiting.queue in might_have_had and waiting.queue != served:
                waiting.closures += served.startswith("closure")
                waiting.others += not served.startswith("closure")
                self._check(waiting)

    def _check(self, waiting: Waiting) -> None:
        if waiting.queue.startswith("closure"):
            assert waiting.others <= waiting.place, waiting
        else:
            assert waiting.others <= waiting.place * (len(NAMES) - 1), waiting
            assert waiting.closures <= waiting.place * len(NAMES) + len(self.hosts), waiting


@settings(max_examples=200, deadline=None)
@given(HOSTS, EVENTS)
def test_whoever_waits_is_overtaken_a_bounded_number_of_times(
    hosts: list[tuple[set[str], int, int]], events: list[tuple[str, int]]
) -> None:
    """Whatever becomes ready and whichever slots get free.

    A registered step that is the k-th of its name sees at most k * (names - 1) steps of other names go to hosts that
    serve its own: each name has its turn once before the next of its own is given. Every slot that goes to a closure
    there is followed by one that goes to a registered step, so that it sees at most k * names + hosts closures. And
    the k-th of a session's closures sees at most k registered steps go to that host. Slots do not matter.
    """
    played = Played(hosts)
    for kind, number in events:
        if kind == "end":
            played.end(number)
        else:
            played.ready(kind, number)
    for number in range(3 * played.planned):
        played.end(number % len(hosts))
    served = {name for steps, _, _ in hosts for name in steps}
    assert not [key for key, step in played.waiting.items() if step.queue.startswith("closure") or step.queue in served]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sets(st.sampled_from(NAMES), min_size=1), st.integers(1, 3)), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from((*NAMES, "end", "end")), st.integers(0, 2)), min_size=1, max_size=40),
)
def test_a_run_is_overtaken_by_those_of_other_flows_a_bounded_number_of_times(
    hosts: list[tuple[set[str], int]], events: list[tuple[str, int]]
) -> None:
    """The k-th of a flow sees at most k * (flows - 1) runs of other flows go to hosts that serve its own."""
    desk = Desk()
    found = [desk.host(flows=tuple(sorted(flows)), bodies=bodies) for flows, bodies in hosts]
    waiting: dict[str, Waiting] = {}
    given: set[str] = set()
    for number, (kind, which) in enumerate([*events, *[("end", index % 3) for index in range(6 * len(events))]]):
        host = found[which % len(found)]
        if kind != "end":
            place = 1 + sum(1 for other in waiting.values() if other.queue == kind)
            waiting[f"{kind}{number}"] = Waiting(kind, place)
            desk.start(f"{kind}{number}", flow=kind)
        elif entered(host):
            host.end(entered(host)[0])
        desk.settle()
        for taker, run_id in [(host, run_id) for host in found for run_id in entered(host) if run_id not in given]:
            given.add(run_id)
            flow = waiting.pop(run_id).queue
            assert taker.engine is not None
            for run in waiting.values():
                run.others += run.queue != flow and run.queue in taker.engine.flows
                assert run.others <= run.place * (len(NAMES) - 1), run
    assert not [run for run in waiting.values() if run.queue in {flow for flows, _ in hosts for flow in flows}]
