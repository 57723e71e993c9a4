"""How a fault is planted: one line of one real function is replaced while a history is played.

The function keeps its identity and gets other code, so that everybody who imported it by name runs the fault as well.
A line that is not there (any more) exactly once is an error of the mutant, never a test that passes.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True)
class Edit:
    """A change of one function.

    Attributes:
        function: Of the engine core, of a host's session core, or of the store.
        old: Text that stands in its source exactly once.
        new: What stands there instead.
    """

    function: Any
    old: str
    new: str


@contextmanager
def planted(*edits: Edit) -> Iterator[None]:
    """The functions have the fault. Raises AssertionError if one does not have the text that is to be replaced."""
    functions = list(dict.fromkeys([edit.function for edit in edits]))
    with ExitStack() as stack:
        for function in functions:
            assert isinstance(function, FunctionType), function
            changed = _changed(function, [edit for edit in edits if edit.function is function])
            stack.callback(setattr, function, "__code__", function.__code__)
            function.__code__ = changed
        yield


def _changed(function: FunctionType, edits: list[Edit]) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    for edit in edits:
        times = source.count(edit.old)
        assert times == 1, f"{function.__qualname__} has {edit.old!r} {times} times: the mutant must be written anew"
        source = source.replace(edit.old, edit.new)
    module = compile(
        source,
        f"<mutant of {function.__qualname__}>",
        "exec",
        flags=__future__.annotations.compiler_flag,
        dont_inherit=True,
    )
    codes = [code for code in module.co_consts if isinstance(code, CodeType) and code.co_name == function.__name__]
    assert len(codes) == 1, function.__qualname__
    return codes[0]
