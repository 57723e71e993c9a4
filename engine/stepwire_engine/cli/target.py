"""From `module:attr` or `file.py[:attr]` to the Host that is meant; everything that can be wrong with it is told here.

It imports user code, hence runs it. It must not start the host.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from stepwire.host import Host
from stepwire_engine.cli.failures import CommandError
from stepwire_engine.cli.terminal import printable, talk


def load_host(target: str, directory: Path) -> Host:
    """Import `target` and find its host.

    Args:
        target: `module`, `module:attr`, `file.py` or `file.py:attr`; without attr the only Host of the module.
        directory: Where modules are looked for first, and what relative files are relative to.

    Raises:
        CommandError: there is no such file, module or attribute, the import fails (its traceback is printed),
            or the module has no Host, or several.
    """
    place, _, attribute = target.partition(":")
    if place.endswith(".py") or "/" in place:
        root, name = _module_of_file(directory / place, place)
    else:
        root, name = directory, place
    module = _imported(name, root, target)
    return _named(module, attribute, target) if attribute else _only(module, target)


def _module_of_file(path: Path, shown: str) -> tuple[Path, str]:
    """Where to import a file from and as what: inside a package by its full name, so that relative imports work."""
    path = path.resolve()
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.py")], n=1)
        raise CommandError(
            f"there is no file {shown}",
            why=f"looked for {path}",
            next_command=f"stepwire host {Path(shown).with_name(near[0])}"
            if near
            else "give the path of a Python file",
        )
    if path.suffix != ".py":
        raise CommandError(
            f"{shown} is not a Python file",
            why="its name ends in something else",
            next_command="give a .py file or a module",
        )
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    return root, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(name: str, root: Path, target: str) -> ModuleType:
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise _no_module(name, error.name, root) from None
        raise _failed_import(target, error) from error
    except (Exception, SystemExit) as error:
        raise _failed_import(target, error) from error


def _no_module(name: str, missing: str, root: Path) -> CommandError:
    return CommandError(
        f"there is no module {name}",
        why=f"{missing} is neither in {root} nor installed for {sys.executable}",
        next_command="run this where the module is, or name the file: stepwire host path/to/file.py",
    )


def _failed_import(target: str, error: BaseException) -> CommandError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    told = traceback.TracebackException.from_exception(error)
    told.stack = traceback.StackSummary.from_list(frames)
    talk(printable("".join(told.format(chain=True)).rstrip(), "\n"))
    if isinstance(error, SystemExit):
        return CommandError(
            f"importing {target} ended the program",
            why=f"the module raises SystemExit({error.code!r}) while it is imported",
            next_command='put what the module does as a program under `if __name__ == "__main__":`',
        )
    return CommandError(
        f"{target} cannot be imported",
        why=f"{type(error).__name__}: {error}",
        next_command="correct the last line of the traceback above",
    )


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (__file__, importlib.__file__)


# ---- the host in the module


def _named(module: ModuleType, attribute: str, target: str) -> Host:
    try:
        found = attrgetter(attribute)(module)
    except AttributeError:
        raise CommandError(
            f"{target}: the module has no {attribute}",
            why=_inventory(_hosts(module)),
            next_command=_suggestion(module, target),
        ) from None
    if not isinstance(found, Host):
        raise CommandError(
            f"{target} is no host",
            why=f"{attribute} is of type {type(found).__name__}; {_inventory(_hosts(module))}",
            next_command=_suggestion(module, target),
        )
    return found


def _only(module: ModuleType, target: str) -> Host:
    hosts = _hosts(module)
    if len({id(host) for host in hosts.values()}) == 1:
        return next(iter(hosts.values()))
    raise CommandError(
        f"{target} has several hosts" if hosts else f"{target} has no host",
        why=_inventory(hosts),
        next_command=_suggestion(module, target),
    )


def _hosts(module: ModuleType) -> dict[str, Host]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Host)}


def _inventory(hosts: Mapping[str, Host]) -> str:
    if not hosts:
        return "no variable of the module is a stepwire.Host"
    return "its hosts are " + ", ".join(f"{variable} ({host.name})" for variable, host in hosts.items())


def _suggestion(module: ModuleType, target: str) -> str:
    variable = next(iter(_hosts(module)), "")
    place = target.partition(":")[0]
    return f"stepwire host {place}:{variable}" if variable else 'add `host = stepwire.Host("name")` to the module'
