"""A host inside an ASGI service (DESIGN 6): it serves while the service does, and drains with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import stepwire
from tests.e2e import gates, ledger
from tests.e2e.processes import Engine, Process, Stage, free_port, wait_for

ENDED_BY_SIGTERM = (0, -signal.SIGTERM)
"""uvicorn raises the signal again once it has stopped."""
NO_ENGINE = "no engine at"
SLOW = pytest.mark.timeout(60)
"""Several processes start one after the other."""
RELOADED = "from tests.e2e import asgi_app\n\nasgi_app.version = {version}\napp = asgi_app.app\n"


class Service:
    """uvicorn with the app of `asgi_app`, or with a module in front of it."""

    def __init__(
        self, stage: Stage, engine: Engine, *options: str, app: str = "tests.e2e.asgi_app:app", name: str = "web"
    ) -> None:
        self.engine = engine
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.process = Process(
            ["-m", "uvicorn", app, "--port", str(port), "--log-level", "info", *options],
            stage.directory / f"{name}.log",
            STEPWIRE_ENGINE=engine.address,
            **{
                ledger.FILE_ENV: str(stage.ledger.path),
                ledger.HOST_ENV: name,
                gates.ADDRESS_ENV: stage.gates.address,
            },
        )

    def get(self, path: str) -> dict[str, Any] | None:
        """The answer; None while nobody gives one."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=15) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (urllib.error.URLError, ConnectionError):
            return None

    def about(self) -> dict[str, Any]:
        return wait_for(lambda: self.get("/about"), "the service to answer")

    def runs_a_flow(self, value: int = 7) -> int:
        """The process that ran its step."""
        until_hosts(self.engine, 1)
        answer = wait_for(lambda: self.get(f"/start?value={value}"), "the service to run a flow")
        pid, returned = answer["output"]
        assert returned == value
        return int(pid)


@contextmanager
def service(stage: Stage, engine: Engine, *options: str, **more: str) -> Iterator[Service]:
    made = Service(stage, engine, *options, **more)
    try:
        yield made
    except BaseException:
        print(made.process.said)
        raise
    finally:
        made.process.kill()


def hosts(engine: Engine, name: str = "web") -> float:
    try:
        return engine.metric(f'stepwire_sessions_connected{{service="{name}"}}')
    except AssertionError:
        return 0


def until_hosts(engine: Engine, count: int, name: str = "web") -> None:
    wait_for(lambda: hosts(engine, name) == count, f"{count} hosts to be connected")


# ---- uvicorn


def test_a_service_under_uvicorn_is_a_host(stage: Stage) -> None:
    engine = stage.engine()
    with service(stage, engine) as web:
        assert web.runs_a_flow() == web.process.pid != os.getpid()
        assert hosts(engine) == 1
        run = stage.client(engine).start("patient", 1)
        stage.gates.arrived(run.run_id, "gated")
        web.process.signal(signal.SIGTERM)
        stage.draining(web.process)
        assert "service-down" not in events(stage), "what the steps need is there until they have ended"
        stage.gates.open(run.run_id, "gated")
        assert web.process.wait() in ENDED_BY_SIGTERM, web.process.said
        assert events(stage)[-1] == "service-down" and "Traceback" not in web.process.said
        until_hosts(engine, 0)
    with service(stage, engine):
        assert run.result(timeout=15) == [1, 1]
        assert stage.ledger.count("before", run.run_id) == {"gated": 1}


def events(stage: Stage) -> list[str]:
    return [line.event for line in stage.ledger.refresh()]


@SLOW
def test_reload_drains_the_old_worker_and_the_new_one_goes_on(stage: Stage, tmp_path: Path) -> None:
    engine = stage.engine()
    (tmp_path / "reloaded.py").write_text(RELOADED.format(version=1))
    reload = ("--reload", "--reload-dir", str(tmp_path), "--app-dir", str(tmp_path))
    with service(stage, engine, *reload, app="reloaded:app") as web:
        old = web.about()
        run = stage.client(engine).start("patient", 1)
        stage.gates.arrived(run.run_id, "gated")
        # Of another size: a file of the same second and size is not compiled again.
        (tmp_path / "reloaded.py").write_text(RELOADED.format(version="1 + 1"))
        wait_for(lambda: "draining" in events(stage), "the old worker to drain")
        stage.gates.open(run.run_id, "gated")
        assert run.result(timeout=15) == [1, 2], "the old code ended its step, the new one made the next"
        assert stage.ledger.count("before", run.run_id) == {"gated": 1}
        new = web.about()
        assert (old["version"], new["version"]) == (1, 2)
        until_hosts(engine, 1)
        assert not Path(f"/proc/{old['pid']}").exists()
        assert web.process.terminate() in ENDED_BY_SIGTERM
        assert "Traceback" not in web.process.said
        until_hosts(engine, 0)


@SLOW
def test_every_worker_is_a_host_and_all_drain_with_the_service(stage: Stage) -> None:
    engine = stage.engine()
    with service(stage, engine, "--workers", "2") as web:
        until_hosts(engine, 2)
        client = stage.client(engine)
        pids: set[int] = set()

        def both() -> bool:
            handles = [client.start("where", value) for value in range(8)]
            pids.update(handle.result(timeout=15)[0] for handle in handles)
            return len(pids) == 2

        wait_for(both, "both workers to get work")
        assert web.process.pid not in pids
        runs = [client.start("patient", 1) for _ in range(4)]
        for run in runs:
            stage.gates.arrived(run.run_id, "gated")
        web.process.signal(signal.SIGTERM)
        wait_for(lambda: events(stage).count("draining") == 2, "both to drain")
        for run in runs:
            stage.gates.open(run.run_id, "gated")
        assert web.process.wait() in ENDED_BY_SIGTERM
        assert "Traceback" not in web.process.said
        until_hosts(engine, 0)
    with service(stage, engine):
        assert [run.result(timeout=15) for run in runs] == [[1, 1]] * 4
        assert all(stage.ledger.count("before", run.run_id) == {"gated": 1} for run in runs)


@SLOW
def test_an_engine_that_is_away_stops_no_service_and_is_missed_once(stage: Stage) -> None:
    engine = stage.engine()
    engine.kill()
    with service(stage, engine) as web:
        for absence in (1, 2):
            dials = web.about()["dials"]
            wait_for(lambda tried=dials: web.about()["dials"] >= tried + 4, "four more dials")
            assert web.process.said.count(NO_ENGINE) == absence
            engine.start()
            assert web.runs_a_flow() == web.process.pid
            # The result may be here before the Ack, and a host that is owed one waits for the engine.
            wait_for(lambda: web.about()["bodies"] == 0, "the engine to ack the end of the run")
            engine.kill()
        web.process.signal(signal.SIGTERM)
        assert web.process.wait(5) in ENDED_BY_SIGTERM, "nothing is owed to the engine that is away"


def test_gunicorn_workers_are_hosts(stage: Stage) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    pytest.importorskip("uvicorn_worker", reason="uvicorn-worker is not installed")
    engine = stage.engine()
    port = free_port()
    arguments = ["-m", "gunicorn", "tests.e2e.asgi_app:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "2"]
    process = Process(
        [*arguments, "-b", f"127.0.0.1:{port}"],
        stage.directory / "gunicorn.log",
        STEPWIRE_ENGINE=engine.address,
        **{
            ledger.FILE_ENV: str(stage.ledger.path),
            ledger.HOST_ENV: "web",
            gates.ADDRESS_ENV: stage.gates.address,
        },
    )
    try:
        until_hosts(engine, 2)
        assert process.terminate() == 0
        until_hosts(engine, 0)
    finally:
        process.kill()


# ---- in this process


def made_host(name: str) -> stepwire.Host:
    host = stepwire.Host(name)

    @host.flow(name=f"of-{name}")
    async def flow(ctx: stepwire.Context) -> str:
        return await ctx.step.run("one", lambda: name)

    return host


async def run_flow(request: Request) -> JSONResponse:
    async with stepwire.Client() as client:
        handle = await client.start(f"of-{request.path_params['name']}")
        return JSONResponse(await handle.result(timeout=10))


def served(lifespan: Any, *names: str) -> list[str]:
    """Start a service on a loop of its own, ask each of these hosts for a run, stop it. What they answered."""
    app = Starlette(routes=[Route("/{name}", run_flow)], lifespan=lifespan)

    async def life() -> list[str]:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return [(await client.get(f"/{name}")).json() for name in names]

    try:
        return asyncio.run(life())
    finally:
        left = [t.name for t in threading.enumerate() if t.name.startswith("stepwire-session")]
        assert left == [], "the session's thread is gone"


@pytest.fixture
def engine(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Engine:
    started = stage.engine()
    monkeypatch.setenv("STEPWIRE_ENGINE", started.address)
    return started


def test_a_service_starts_and_stops_several_times_in_one_process(engine: Engine) -> None:
    host = made_host("web")
    for _ in range(3):
        assert served(host.lifespan, "web") == ["web"]
        until_hosts(engine, 0)


def test_two_hosts_in_one_service(engine: Engine) -> None:
    one, two = made_host("one"), made_host("two")

    @asynccontextmanager
    async def both(app: Starlette) -> AsyncIterator[None]:
        async with one.lifespan(app), two.lifespan(app):
            yield

    assert served(both, "one", "two") == ["one", "two"]


def test_a_service_whose_start_fails_leaves_no_host_behind(engine: Engine) -> None:
    host = made_host("web")

    @asynccontextmanager
    async def broken(app: Starlette) -> AsyncIterator[None]:
        async with host.lifespan(app):
            raise RuntimeError("the database is away")
            yield

    for _ in range(2):
        with pytest.raises(RuntimeError, match="the database is away"):
            served(broken)
        until_hosts(engine, 0)
    assert served(host.lifespan, "web") == ["web"], "the host can be started after all"
