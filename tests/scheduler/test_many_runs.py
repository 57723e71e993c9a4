"""Many runs with one call, against the real core: starts that are committed together, and waiting for their ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, HostSection
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Plan, Sleep
from stepwire_engine.clock import VirtualClock
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.history import RunView
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.core.units import UnitOutcome
from stepwire_engine.scheduler import ends
from stepwire_engine.scheduler.runs import RunBounds
from stepwire_engine.scheduler.starts import StartCall, Started
from tests.scheduler.desk import HELLO, INPUT, Desk, FakeHost, play, turns
from tests.scheduler.test_waiting import DAY, engine, finish, waiting

CALL = StartCall("checkout", INPUT)
WIDE = msgspec.structs.replace(HELLO, bodies=100)


def end(host: FakeHost, *run_ids: str, output: Payload = INPUT, plan_seq: int = 1) -> None:
    """The bodies of these runs end, told with one frame."""
    sections = []
    for run_id in run_ids:
        fence = host.advances(run_id)[-1].fence
        sections.append(HostSection(run_id, plans=[Plan(plan_seq, 0, fence, body_ended=BodyEnded(output))]))
    host.say(*sections)


async def started(desk: Desk, count: int) -> list[str]:
    made = await desk.driver.runs.start_many([CALL] * count)
    await desk.driver.settled()
    return [one.run_id for one in made if isinstance(one, Started)]


def ids(views: Sequence[RunView]) -> list[str]:
    assert all(view.state.terminal for view in views)
    return [view.run_id for view in views]


# ---- starts


def test_many_starts_are_one_commit_and_answered_after_it() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        desk.store.gated = True
        starting = asyncio.create_task(desk.driver.runs.start_many([CALL] * 300))
        await turns()
        assert not starting.done() and desk.driver.runs.pending == 300
        ((units, _),) = desk.store.waiting
        assert len(units) == 300
        desk.store.gated = False
        desk.store.let_through()
        outcomes = await starting
        assert len({outcome.run_id for outcome in outcomes if isinstance(outcome, Started)}) == 300
        assert desk.driver.runs.pending == 0
        assert [await desk.state(outcome.run_id) for outcome in outcomes[:2] if isinstance(outcome, Started)]

    play(scenario)


def test_a_refused_start_hinders_no_other_and_outcomes_keep_their_order() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        finished, held = await desk.start("finished"), await desk.start("held")
        end(host, finished)
        await desk.driver.settled()
        other = Payload(b"18")
        outcomes = await runs.start_many(
            [
                StartCall("checkout", INPUT, "new"),
                StartCall("checkout", INPUT, "held"),
                StartCall("checkout", other, "held"),
                StartCall("checkout", INPUT, "finished"),
                StartCall("checkout", other, "finished"),
                StartCall("unheard", INPUT),
                StartCall("checkout", INPUT, "new"),
                StartCall("checkout", other, "new"),
                CALL,
            ]
        )
        told = [one.code if isinstance(one, CallRefused) else one.existing for one in outcomes]
        conflict = ErrorCode.KEY_CONFLICT
        assert told == [False, True, conflict, True, conflict, ErrorCode.UNKNOWN_FLOW, True, conflict, False]
        ids = [one.run_id if isinstance(one, Started) else "" for one in outcomes]
        assert (ids[1], ids[3], ids[6]) == (held, finished, ids[0])
        assert len(await _all(desk)) == 4

    play(scenario)


async def _all(desk: Desk) -> list[str]:
    return [record.run_id for record in (await desk.driver.runs.list_runs()).runs]


def test_a_store_without_space_refuses_each_and_starts_none() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        desk.store.answer = UnitOutcome.NO_SPACE
        outcomes = await desk.driver.runs.start_many([CALL] * 3)
        assert [one.code for one in outcomes if isinstance(one, CallRefused)] == [ErrorCode.STORE_FULL] * 3
        assert await _all(desk) == [] and desk.driver.runs.pending == 0

    play(scenario)


@pytest.mark.parametrize(
    ("bounds", "setting"),
    [
        (RunBounds(runs_in_memory_max=5), "runs_in_memory_max"),
        (RunBounds(starts_pending_max=5), "starts_pending_max"),
        (RunBounds(units_waiting_max=5), "units_waiting_max"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bounds_count_runs(bounds: RunBounds, setting: str) -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        await desk.host()
        desk.store.gated = True
        starting = asyncio.create_task(runs.start_many([CALL] * 3))
        await turns()
        for count in (3, 5):
            with pytest.raises(CallRefused, match=setting) as busy:
                await runs.start_many([CALL] * count)
            assert (busy.value.code, busy.value.retry_after) == (ErrorCode.LIMIT_EXCEEDED, 0.5)
        with pytest.raises(CallRefused, match=f"6 runs together are more than the 5 of {setting}") as never:
            await runs.start_many([CALL] * 6)
        assert (never.value.code, never.value.retry_after) == (ErrorCode.LIMIT_EXCEEDED, None)
        assert len(desk.store.waiting) == 1, "of what was refused nothing was done"
        rest = asyncio.create_task(runs.start_many([CALL] * 2))
        await turns()
        desk.store.gated = False
        desk.store.let_through()
        assert len(await starting) == 3 and len(await rest) == 2

    play(scenario, bounds)


def test_an_input_that_is_too_large_refuses_all() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        with pytest.raises(CallRefused) as large:
            await desk.driver.runs.start_many([CALL, StartCall("checkout", Payload(b"x" * 11))])
        assert large.value.code is ErrorCode.PAYLOAD_TOO_LARGE
        assert await _all(desk) == []

    play(scenario, RunBounds(payload_bytes_max=10))


def test_a_caller_that_leaves_counts_no_more_and_its_runs_go_on() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        desk.store.gated = True
        starting = asyncio.create_task(desk.driver.runs.start_many([CALL] * 3))
        await turns()
        starting.cancel()
        await turns()
        assert desk.driver.runs.pending == 0
        desk.store.gated = False
        desk.store.let_through()
        await desk.driver.settled()
        assert len(await _all(desk)) == 3

    play(scenario)


def test_a_stopping_engine_refuses_who_waits() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        desk.store.gated = True
        starting = asyncio.create_task(desk.driver.runs.start_many([CALL] * 3))
        await turns()
        desk.driver.runs.end(CallRefused(ErrorCode.DRAINING, "engine is draining"))
        with pytest.raises(CallRefused, match="draining"):
            await starting
        desk.store.gated = False
        desk.store.let_through()

    play(scenario)


# ---- ends


def test_ends_are_told_once_together_and_in_their_order() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        first, second, third, other = await started(desk, 4)
        with desk.driver.runs.ends([first, second, third]) as ended:
            waiting = asyncio.ensure_future(ended())
            host.plan_closure(other)
            await desk.driver.settled()
            assert not waiting.done()
            end(host, third, first)
            await desk.driver.settled()
            assert ids(await waiting) == [third, first]
            end(host, second)
            await desk.driver.settled()
            (view,) = await ended()
            assert (view.run_id, view.state, view.output) == (second, RunState.SUCCEEDED, INPUT)
        assert desk.driver.runs._ends._waits == {}

    play(scenario)


def test_whoever_waits_for_an_end_is_woken_before_frames_are_handed_to_hosts() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        (run_id,) = await started(desk, 1)
        with desk.driver.runs.ends([run_id]) as ended:
            (wait,) = desk.driver.runs._ends._waits[run_id]
            waiting = asyncio.ensure_future(ended())
            told: list[bool] = []
            send = host.send

            def sent(frame: EngineFrame) -> None:
                told.append(wait._woken.is_set())
                send(frame)

            host.send = sent  # type: ignore[method-assign]
            end(host, run_id)
            await desk.driver.settled()
            assert ids(await waiting) == [run_id]
            assert told[-1]

    play(scenario)


def test_an_end_is_told_after_its_commit() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        (run_id,) = await started(desk, 1)
        with desk.driver.runs.ends([run_id]) as ended:
            waiting = asyncio.ensure_future(ended())
            desk.store.gated = True
            end(host, run_id)
            await turns()
            assert desk.store.waiting and not waiting.done()
            with desk.driver.runs.ends([run_id]) as late:
                other = asyncio.ensure_future(late())
                await turns()
                assert not other.done()
                desk.store.gated = False
                desk.store.let_through()
                assert ids(await waiting) == ids(await other) == [run_id]

    play(scenario)


def test_what_had_ended_is_read_and_what_ends_meanwhile_is_told_once() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        before, kept, going = await started(desk, 3)
        end(host, before, kept)
        await desk.driver.settled()
        del runs._just_ended[before]
        with runs.ends([before, going, kept]) as ended:
            waiting = asyncio.ensure_future(ended())
            await turns(1)
            end(host, going)  # While the first one is read.
            told = ids(await waiting)
            while len(told) < 3:
                told += ids(await ended())
        assert sorted(told) == sorted([before, kept, going])

    play(scenario)


def test_a_run_that_ends_while_it_is_looked_for_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not in memory when the wait begins, and its end is noted before the read of it is answered."""

    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        run_id, last = await started(desk, 2)
        view = runs.view

        async def slow(name: str, *, include_steps: bool) -> RunView:
            if name == run_id:
                end(host, run_id)
                await desk.driver.settled()
            return await view(name, include_steps=include_steps)

        monkeypatch.setattr(runs, "view", slow)
        with runs._ends.wait([run_id, last], {last}) as ended:
            assert ids(await ended()) == [run_id]
            waiting = asyncio.ensure_future(ended())
            await turns()
            assert not waiting.done()
            end(host, last)
            assert ids(await waiting) == [last]

    play(scenario)


def test_a_run_that_there_is_not_is_told_at_once() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        (run_id,) = await started(desk, 1)
        with desk.driver.runs.ends([run_id, "nobody"]) as ended:
            with pytest.raises(CallRefused, match="no run nobody") as missing:
                await ended()
            assert missing.value.code is ErrorCode.RUN_NOT_FOUND

    play(scenario)


def test_the_end_of_a_run_that_was_taken_out_of_memory_is_told() -> None:
    """The core fails on a run whose end is on its way to the store: it ends without being in memory."""

    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        (run_id,) = await started(desk, 1)
        with desk.driver.runs.ends([run_id]) as ended:
            waiting = asyncio.ensure_future(ended())
            desk.store.gated = True
            end(host, run_id)
            await turns()
            desk.driver.core._commits.quarantine(desk.driver.core.runs[run_id], RuntimeError("a defect"))
            desk.store.gated = False
            desk.store.let_through()
            await desk.driver.settled()
            assert ids(await asyncio.wait_for(waiting, 5)) == [run_id]

    play(scenario)


def test_a_run_whose_journal_turns_out_to_be_damaged_ends_the_wait() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        (run_id,) = await started(desk, 1)
        with desk.driver.runs.ends([run_id]) as ended:
            waiting = asyncio.ensure_future(ended())
            await turns()
            desk.store.damaged = True
            desk.driver.core._commits.quarantine(desk.driver.core.runs[run_id], RuntimeError("a defect"))
            desk.driver.tick()
            await desk.driver.settled()
            with pytest.raises(CallRefused) as unreadable:
                await asyncio.wait_for(waiting, 5)
            assert unreadable.value.code is ErrorCode.RUN_UNREADABLE
            desk.store.damaged = False

    play(scenario)


def test_a_dormant_run_is_waited_for_before_and_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = VirtualClock()
        async with engine(tmp_path, clock) as first:
            host = FakeHost(first.driver)
            run_id = await waiting(first, host, Sleep(DAY))
            other = await waiting(first, host, Sleep(3 * DAY))
            with first.driver.runs.ends([run_id, other]) as ended:
                asked = asyncio.ensure_future(ended())
                await first.advance(DAY)
                assert not asked.done(), "it sleeps on, and it has woken"
                finish(host, run_id)
                await first.driver.settled()
                assert ids(await asked) == [run_id]
        async with engine(tmp_path, clock) as second:
            host = FakeHost(second.driver)
            await second.driver.settled()
            with second.driver.runs.ends([other]) as ended:
                asked = asyncio.ensure_future(ended())
                await second.advance(3 * DAY)
                assert not asked.done()
                finish(host, other)
                await second.driver.settled()
                assert ids(await asked) == [other]

    asyncio.run(scenario())


def test_large_outputs_are_told_in_portions_and_not_kept() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host(WIDE)
        run_ids = await started(desk, 6)
        with desk.driver.runs.ends(run_ids) as ended:
            end(host, *run_ids[:4], output=Payload(b'"' + b"x" * 600_000 + b'"'))
            end(host, *run_ids[4:])
            await desk.driver.settled()
            assert desk.driver.runs._ends.held < 10_000
            portions = [ids(await ended()) for _ in range(4)]
        assert portions == [[run_ids[0]], [run_ids[1]], [run_ids[2]], run_ids[3:]]
        assert desk.driver.runs._ends.held == 0

    play(scenario)


def test_what_is_kept_for_those_who_do_not_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "_HELD_BYTES_MAX", 5_000)

    async def scenario(desk: Desk) -> None:
        host = await desk.host(WIDE)
        run_ids = await started(desk, 50)
        with desk.driver.runs.ends(run_ids) as ended, desk.driver.runs.ends(run_ids):
            end(host, *run_ids)
            await desk.driver.settled()
            assert 0 < desk.driver.runs._ends.held <= 5_000
            assert ids(await ended()) == run_ids, "the others are read"
        assert desk.driver.runs._ends.held == 0

    play(scenario)


def test_a_run_that_leaves_memory_often_is_looked_for_once_by_who_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        (run_id,) = await started(desk, 1)
        view = runs.view
        read: list[str] = []

        async def counted(name: str, *, include_steps: bool) -> RunView:
            read.append(name)
            return await view(name, include_steps=include_steps)

        monkeypatch.setattr(runs, "view", counted)
        with runs.ends([run_id]) as ended:
            for _ in range(100):
                runs._ends.look([run_id])
            waiting = asyncio.ensure_future(ended())
            await turns()
            assert read == [run_id]
            runs._ends.look([run_id])
            await turns()
            assert read == [run_id] * 2
            end(host, run_id)
            assert ids(await waiting) == [run_id]

    play(scenario)


def test_what_was_read_is_told_before_a_read_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        first, second, third = await started(desk, 3)
        end(host, first, second, third)
        await desk.driver.settled()
        view = runs.view
        refused = [second]

        async def busy_once(name: str, *, include_steps: bool) -> RunView:
            if name in refused:
                refused.remove(name)
                raise CallRefused(ErrorCode.LIMIT_EXCEEDED, "busy")
            return await view(name, include_steps=include_steps)

        monkeypatch.setattr(runs, "view", busy_once)
        with runs.ends([first, second, third]) as ended:
            assert ids(await ended()) == [first]
            assert ids(await ended()) == [second, third]
        refused += [second] * 2
        with runs.ends([first, second]) as ended:
            assert ids(await ended()) == [first]
            with pytest.raises(CallRefused):
                await asyncio.wait_for(ended(), 5)

    play(scenario)


def test_how_many_are_waited_for_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "WAITED_FOR_MAX", 3)

    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        await desk.host()
        run_ids = await started(desk, 2)
        with runs.ends(run_ids):
            with pytest.raises(CallRefused, match="2 ends of runs are waited for") as busy, runs.ends(run_ids):
                pass
            assert (busy.value.code, busy.value.retry_after) == (ErrorCode.LIMIT_EXCEEDED, 0.5)
            with runs.ends(run_ids[:1]):
                pass
        with runs.ends(run_ids):
            pass

    play(scenario)


def test_a_stopping_engine_ends_every_wait_old_and_new() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        run_ids = await started(desk, 3)
        with runs.ends(run_ids) as ended, runs.ends(run_ids[:1]) as told:
            waiting = asyncio.ensure_future(ended())
            end(host, run_ids[0])
            await desk.driver.settled()
            assert ids(await waiting) == run_ids[:1]
            waiting = asyncio.ensure_future(ended())
            await turns()
            await desk.driver.stop()
            for call in (waiting, ended(), told()):
                with pytest.raises(CallRefused) as refused:
                    await call
                assert refused.value.code is ErrorCode.DRAINING
            with runs.ends(run_ids[1:]) as late:
                with pytest.raises(CallRefused, match="draining"):
                    await late()

    play(scenario)


def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        run_ids = await started(desk, 2)

        async def waits() -> None:
            with runs.ends([*run_ids]) as ended:
                while True:
                    await ended()

        waiting = [asyncio.create_task(waits()) for _ in range(2)]
        await turns()
        waiting[0].cancel()
        await turns()
        end(host, run_ids[0])
        await desk.driver.settled()
        waiting[1].cancel()
        await turns()
        assert runs._ends._waits == {} and runs._ends._waited_for == runs._ends.held == 0

    play(scenario)
