"""Which event loop processes of ours run on: uvloop if it is there, unless somebody says otherwise."""

from __future__ import annotations

import asyncio
import sys

import pytest

import stepwire
from stepwire import ConfigurationError
from stepwire._event_loop import CHOICES, EVENT_LOOP_ENV, loop_factory, name_of
from stepwire_engine import config
from stepwire_engine.cli import checkup


@pytest.fixture
def without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)


def kind(choice: str) -> str:
    with asyncio.Runner(loop_factory=loop_factory(choice)) as runner:
        return name_of(runner.get_loop())


def test_uvloop_is_taken_when_it_is_there() -> None:
    pytest.importorskip("uvloop")
    assert [kind(choice) for choice in CHOICES] == ["uvloop", "asyncio", "uvloop"]


def test_nothing_depends_on_uvloop(without_uvloop: None) -> None:
    assert [kind(choice) for choice in ("auto", "asyncio")] == ["asyncio", "asyncio"]
    with pytest.raises(ConfigurationError, match="uvloop cannot be imported") as caught:
        loop_factory("uvloop")
    assert "stepwire[uvloop]" in str(caught.value)


def test_there_are_three_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="auto, asyncio, uvloop"):
        loop_factory("trio")
    host = stepwire.Host("h")
    with pytest.raises(ConfigurationError, match="'fast'"):
        host.run(event_loop="fast")
    monkeypatch.setenv(EVENT_LOOP_ENV, "slow")
    with pytest.raises(ConfigurationError, match="'slow'"):
        host.run()


def test_the_engine_has_the_same_choices() -> None:
    (setting,) = [setting for setting in config.SETTINGS if setting.field == "event_loop"]
    assert setting.choices == CHOICES and setting.env == EVENT_LOOP_ENV


def test_the_doctor_says_which_it_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise checkup.importlib.metadata.PackageNotFoundError(name)

    def found(choice: str) -> tuple[str, str]:
        (finding,) = [f for f in checkup.check_place(config.Config(event_loop=choice)) if f.check == "loop"]
        return finding.status.value, finding.what

    monkeypatch.setattr(checkup.importlib.metadata, "version", lambda name: "1.2")
    assert [found(choice) for choice in CHOICES] == [
        ("ok", "uvloop 1.2"), ("ok", "asyncio, as configured; uvloop 1.2 is installed"), ("ok", "uvloop 1.2"),
    ]  # fmt: skip
    monkeypatch.setattr(checkup.importlib.metadata, "version", missing)
    assert found("auto") == ("ok", "asyncio; uvloop is not installed")
    assert found("uvloop") == ("fail", "uvloop is not installed")
