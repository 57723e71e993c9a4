"""Targets: what `module:attr` and `file.py[:attr]` find, and the error for everything that can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwire_engine.cli.failures import CommandError, ExitCode
from stepwire_engine.cli.target import load_host

ONE = 'import stepwire\nhost = stepwire.Host("orders")\n'
TWO = ONE + 'other = stepwire.Host("billing")\n'


@pytest.fixture(autouse=True)
def _imports_are_undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("target", ["app_one.py", "app_one.py:host", "app_one", "app_one:host", "./app_one.py"])
def test_files_and_modules(tmp_path: Path, target: str) -> None:
    write(tmp_path, app_one=ONE)
    assert load_host(target, tmp_path).name == "orders"


def test_a_file_in_a_package_is_imported_by_its_full_name(tmp_path: Path) -> None:
    write(tmp_path, shop__init=ONE, shop__app="from .init import host as host\n")
    (tmp_path / "shop" / "__init__.py").touch()
    assert load_host("shop/app.py", tmp_path).name == "orders"
    assert "shop.app" in sys.modules and "app" not in sys.modules


def test_a_host_under_two_names_is_one_host(tmp_path: Path) -> None:
    write(tmp_path, alias=ONE + "also = host\n")
    assert load_host("alias.py", tmp_path).name == "orders"


def test_dotted_attributes(tmp_path: Path) -> None:
    write(tmp_path, nested=ONE + "class Apps:\n    main = host\n")
    assert load_host("nested.py:Apps.main", tmp_path).name == "orders"


MISTAKES = {
    "no such file": ("ap.py", {"app": ONE}, "there is no file ap.py", "stepwire host app.py"),
    "no such module": ("shopp:host", {}, "there is no module shopp", "path/to/file.py"),
    "no such attribute": ("app_a.py:hots", {"app_a": ONE}, "has no hots", "stepwire host app_a.py:host"),
    "not a host": ("app_b.py:n", {"app_b": ONE + "n = 3\n"}, "is no host", "stepwire host app_b.py:host"),
    "no host": ("app_c.py", {"app_c": "x = 1\n"}, "has no host", 'stepwire.Host("name")'),
    "several hosts": ("app_d.py", {"app_d": TWO}, "has several hosts", "stepwire host app_d.py:host"),
    "fails": ("app_e.py", {"app_e": "def f():\n    return 1 / 0\nf()\n"}, "cannot be imported", "traceback above"),
    "syntax": ("app_f.py", {"app_f": "def f(:\n"}, "cannot be imported", "traceback above"),
    "missing import": ("app_g.py", {"app_g": "import nonesuch\n"}, "cannot be imported", "traceback above"),
    "ends": ("app_h.py", {"app_h": "import sys\nsys.exit(3)\n"}, "ended the program", "__main__"),
}


@pytest.mark.parametrize(("target", "files", "what", "following"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(tmp_path: Path, target: str, files: dict[str, str], what: str, following: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(CommandError) as caught:
        load_host(target, tmp_path)
    assert what in caught.value.what
    assert following in caught.value.next_command
    assert caught.value.why and caught.value.exit_code is ExitCode.USAGE


def test_several_hosts_are_listed(tmp_path: Path) -> None:
    write(tmp_path, app_two=TWO)
    with pytest.raises(CommandError) as caught:
        load_host("app_two.py", tmp_path)
    assert caught.value.why == "its hosts are host (orders), other (billing)"


def test_the_traceback_is_that_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, app_bad="def f():\n    return 1 / 0\nf()\n")
    with pytest.raises(CommandError):
        load_host("app_bad.py", tmp_path)
    shown = capsys.readouterr().err
    assert "return 1 / 0" in shown and "ZeroDivisionError" in shown
    assert "importlib" not in shown and "target.py" not in shown
