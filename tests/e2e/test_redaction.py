"""Secrets in every place they may be, and then a search of all that the system wrote and says (MISSION V7)."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

import stepwire
from stepwire.codec import JSON_CODEC, Codec
from stepwire.encryption import KEYS_ENV, EncryptedCodec, Keyring
from stepwire.redaction import Redacted
from tests.e2e.processes import Engine, Stage
from tests.e2e.sites import Site

KEY = base64.b64encode(bytes(range(32))).decode()
SEALED = "canary-sealed-4711"
"""Only hosts need it."""
CARRIED = "canary-carried-4712"
"""Hosts and the engine need it, and whom it calls."""
TOKEN = "canary-token-4713"
"""Only the engine has it."""
NOTHING: set[str] = set()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def found(stage: Stage, text: str) -> set[str]:
    """Files of the stage, databases and everything that processes and commands said, that hold the text."""
    needle = text.encode()
    return {path.name for path in stage.directory.rglob("*") if path.is_file() and needle in path.read_bytes()}


def look_at(stage: Stage, engine: Engine, client: stepwire.ClientSync, run_id: str) -> None:
    """Leave in the stage what programs are told."""
    records = [client.get(run_id, steps=True), client.explain(run_id).run, *client.watch(run_id, steps=True)]
    told = "\n".join([*map(repr, records), engine.http("/metrics")[1]])
    assert "Redacted(size=" in told
    (stage.directory / f"api-{run_id}").write_text(told)


def look_at_commands(stage: Stage, engine: Engine, run_id: str) -> None:
    """Leave in the stage what people are shown."""
    for words in (["show", run_id], ["show", run_id, "-o", "json"], ["why", run_id], ["logs", run_id]):
        said = stage.stepwire(engine, "runs", *words)
        assert ("(redacted, " in said) == (words == ["show", run_id])


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "tagged"])
def test_secrets_are_nowhere_but_where_they_are_needed(stage: Stage, site: Site, encrypted: bool) -> None:
    engine = stage.engine(call_allow="127.0.0.0/8", log_level="debug", environment={"STEPWIRE_SECRET_E2E": TOKEN})
    keys = {KEYS_ENV: f"k1={KEY}"} if encrypted else {}
    stage.host(engine, "vault", flows="secret_flows", **keys)
    codec: Codec = EncryptedCodec(Keyring.from_env(KEYS_ENV, keys)) if encrypted else JSON_CODEC
    client = stepwire.ClientSync(engine.address, codec=codec)
    try:
        given = {"url": site.url("/ok"), "sealed": SEALED, "carried": CARRIED}
        run = client.start("vault", given, id="vault-1")
        assert run.result(timeout=15) == [SEALED] * 3, "whoever awaits the result gets it"
        (again,) = client.start_many("vault", [given], ids=["vault-1"])
        assert again.run_id == run.run_id and client.results([again], timeout=15) == [[SEALED] * 3]
        record = run.get(steps=True)
        shown = {step.path: step.output for step in record.steps}
        assert isinstance(record.input, Redacted)
        assert isinstance(record.output, Redacted)
        assert {path for path, output in shown.items() if isinstance(output, Redacted)} == {
            "charge", "token", "map/[0]/mapped-0", "call", "wait",
        }  # fmt: skip
        failed = client.start("broken", given)
        with pytest.raises(stepwire.RunFailed, match=r"ValueError: \(redacted\)"):
            failed.result(timeout=15)
        for run_id in (run.run_id, failed.run_id):
            look_at(stage, engine, client, run_id)
        if not encrypted:  # Commands know nothing of keys.
            look_at_commands(stage, engine, run.run_id)
            stage.stepwire(engine, "runs", "show", failed.run_id)
    finally:
        client.close()
    assert engine.running.terminate() == 0

    assert site.authorizations == [f"Bearer {TOKEN}"], "the engine sent what only it has"
    database = {engine.db.name}
    assert found(stage, TOKEN) == NOTHING
    assert found(stage, SEALED) == (NOTHING if encrypted else database)
    assert found(stage, CARRIED) == database, "what the engine itself reads cannot be hidden from it"
