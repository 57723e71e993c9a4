"""What the census measures: functions from source files to numbers, in the order in which a flow calls them.

`list_sources` -> `split` -> `analyse` once per chunk -> `merge`. The first three read the disk, so a flow calls
them inside steps; `merge` depends on its argument alone. All values encode to JSON and back without loss
(dataclasses of int, float, str, list, dict with str keys). This module must not import Stepwire: the same
functions run without an engine.

Rule of complexity (cyclomatic, per function): 1, plus 1 for each `if`, `elif`, conditional expression, `for`,
`while`, `except` clause, `assert`, `and` or `or` operator, `for` and `if` of a comprehension, `case` that can fail
to match, and `case` guard. `else`, `finally` and `with` choose nothing and count nothing. Lambdas and class bodies
belong to the function around them; nested functions count for themselves; decorators and defaults belong to the
place where the function is defined.

Rule of docstrings: documentable are modules that are not empty, and classes and functions that are public: no
name on the way to them starts with an underscore and none of them is inside a function.

Rule of code lines: lines that are not blank, not only a comment and not in a docstring.
"""

from __future__ import annotations

import ast
import heapq
import math
import os
import stat
import threading
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

TEST_DIRECTORIES = frozenset({"test", "tests", "idle_test"})
SKIPPED_DIRECTORIES = frozenset({"__pycache__", "site-packages", "node_modules"})
FILE_BYTES_MAX = 4 * 1024 * 1024
"""Larger files are reported and not parsed: they are generated, and a syntax tree takes 100 times their size."""

CHUNK_FILES_AIM = 16
CHUNKS_MIN, CHUNKS_MAX = 20, 60
HOT_SPOTS_PER_CHUNK = 50
COMPLEXITY_BANDS = ((5, "1-5"), (10, "6-10"), (20, "11-20"), (50, "21-50"))
"""Upper bound and label; everything above the last bound is in `BAND_ABOVE`."""
BAND_ABOVE = "over 50"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts of one file, of one package or of everything; tallies add up.

    Attributes:
        complexity: Sum over the functions.
        documentable: Public definitions and modules, see the rule of docstrings above.
        documented: Those of them that have a docstring.
    """

    files: int = 0
    bytes: int = 0
    lines: int = 0
    code_lines: int = 0
    functions: int = 0
    classes: int = 0
    complexity: int = 0
    documentable: int = 0
    documented: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in _TALLY_FIELDS})


_TALLY_FIELDS = tuple(f.name for f in fields(Tally))


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStats:
    """One function or method; `line` and `lines` are those of the definition without its decorators."""

    path: str
    line: int
    name: str
    lines: int
    complexity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStats:
    """One file that could be read; of one that does not parse only `bytes`, `lines` and `code_lines` are known."""

    path: str
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A file that was not analysed, and why; `line` is 0 where no line is to blame."""

    path: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkStats:
    """The outcome of `analyse`, a few kilobytes whatever the size of the sources.

    Attributes:
        hot_spots: The `HOT_SPOTS_PER_CHUNK` most complex functions, most complex first.
        complexity_bands: Number of functions by label of `COMPLEXITY_BANDS`.
        unreadable: Paths that could not be read at all.
    """

    files: list[FileStats] = field(default_factory=list)
    hot_spots: list[FunctionStats] = field(default_factory=list)
    complexity_bands: dict[str, int] = field(default_factory=dict)
    syntax_errors: list[Problem] = field(default_factory=list)
    unreadable: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageStats:
    """Sums over a top-level directory (`asyncio`) or a top-level module (`argparse.py`).

    Attributes:
        mean_complexity: Over its functions; 0 where there are none.
        docstring_coverage: Between 0 and 1; 1 where nothing is documentable.
    """

    name: str
    tally: Tally
    mean_complexity: float
    docstring_coverage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Everything the report shows; packages by code lines, the other lists worst or largest first."""

    total: PackageStats
    packages: list[PackageStats]
    hot_spots: list[FunctionStats]
    largest_files: list[FileStats]
    complexity_bands: dict[str, int]
    syntax_errors: list[Problem]
    unreadable: list[Problem]


def list_sources(root: Path, *, include_tests: bool = False) -> list[str]:
    """Absolute paths of the `.py` files under `root`, sorted.

    Hidden directories and `SKIPPED_DIRECTORIES` are left out, links to directories are not followed. A directory
    that cannot be listed stands in the list under its own name, so that `analyse` reports it.

    Args:
        root: An existing directory.
        include_tests: Whether `TEST_DIRECTORIES` below `root` are looked into.

    Raises:
        NotADirectoryError: `root` is no directory.
    """
    top = os.path.abspath(root)
    if not os.path.isdir(top):
        raise NotADirectoryError(f"{top} is not a directory: give one that holds Python sources")
    skipped = SKIPPED_DIRECTORIES if include_tests else SKIPPED_DIRECTORIES | TEST_DIRECTORIES
    found: list[str] = []

    def keep_unlisted(error: OSError) -> None:
        found.append(str(error.filename))

    for directory, children, names in os.walk(top, onerror=keep_unlisted):
        children[:] = [child for child in children if child not in skipped and not child.startswith(".")]
        found.extend(os.path.join(directory, name) for name in names if name.endswith(".py"))
    return sorted(map(_encodable, found))


def _encodable(path: str) -> str:
    """A name that is not UTF-8 cannot travel as JSON; its escaped form is no file, so `analyse` reports it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def split(files: list[str], chunk_files: int | None = None) -> list[list[str]]:
    """Cut `files` into chunks of about the same number of bytes, the heaviest chunk first.

    No chunk is heavier than the mean plus the largest file. Reads the sizes from disk; a file that has none
    weighs nothing. The same files and sizes always give the same chunks.

    Args:
        files: Paths from `list_sources`; relative ones are relative to the working directory.
        chunk_files: Mean number of files per chunk, at least 1. None aims at `CHUNK_FILES_AIM` and at between
            `CHUNKS_MIN` and `CHUNKS_MAX` chunks.

    Raises:
        ValueError: `chunk_files` is less than 1.
    """
    if chunk_files is not None and chunk_files < 1:
        raise ValueError(f"chunk_files is {chunk_files}: a chunk holds at least 1 file")
    if chunk_files is None:
        wanted = min(max(len(files) // CHUNK_FILES_AIM, CHUNKS_MIN), CHUNKS_MAX)
    else:
        wanted = math.ceil(len(files) / chunk_files)
    sizes = {path: _size_bytes(path) for path in files}
    # Each file, the heaviest first, goes to the lightest chunk; by bytes, then by files, so that empty ones spread.
    chunks: list[list[str]] = [[] for _ in range(min(wanted, len(sizes)))]
    loads = [(0, 0, index) for index in range(len(chunks))]
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        load, count, index = loads[0]
        chunks[index].append(path)
        heapq.heapreplace(loads, (load + sizes[path], count + 1, index))
    return [sorted(chunks[index]) for _, _, index in sorted(loads, key=lambda item: (-item[0], item[2]))]


def _size_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def analyse(paths: list[str], root: str) -> ChunkStats:
    """Measure one chunk; each file is read and parsed once.

    A file that cannot be read or parsed is counted and named in the outcome, and never raises.

    Args:
        paths: A chunk from `split`; relative paths are relative to `root`.
        root: The paths of the outcome are relative to this directory, with `/` between their parts.
    """
    chunk = ChunkStats()
    functions: list[FunctionStats] = []
    for path in paths:
        absolute = os.path.join(root, path)
        shown = Path(os.path.relpath(absolute, root)).as_posix()
        try:
            source = _read(absolute)
        except OSError as error:
            chunk.unreadable.append(Problem(path=shown, line=0, reason=error.strerror or str(error)))
            continue
        parsed = _parse(source)
        if isinstance(parsed, _NotParsed):
            chunk.syntax_errors.append(Problem(path=shown, line=parsed.line, reason=parsed.reason))
            parsed = ast.Module(body=[], type_ignores=[])
        functions.extend(_measure(shown, source, parsed, chunk.files))
    chunk.hot_spots.extend(_hottest(functions, HOT_SPOTS_PER_CHUNK))
    chunk.complexity_bands.update(Counter(_band(function.complexity) for function in functions))
    return chunk


def _read(path: str) -> bytes:
    """The bytes of a regular file (opening a pipe would wait for ever) of a bounded size; raises OSError."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise OSError("the directory could not be listed")
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    if status.st_size > FILE_BYTES_MAX:
        raise OSError(f"{status.st_size} bytes are more than the {FILE_BYTES_MAX} a source file may have")
    with open(path, "rb") as file:
        return file.read()


@dataclass(frozen=True, slots=True)
class _NotParsed:
    line: int
    reason: str


# Warnings filters belong to the process and chunks may be analysed on several threads. Parsing holds the GIL anyway.
_PARSING = threading.Lock()


def _parse(source: bytes) -> ast.Module | _NotParsed:
    """The syntax tree. Bytes go in, so that the parser itself obeys the declared encoding."""
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        return _NotParsed(error.lineno or 0, error.msg)
    except ValueError as error:  # null bytes, before Python 3.12
        return _NotParsed(0, str(error))
    except (RecursionError, MemoryError):  # what the parser raises for expressions nested too deeply
        return _NotParsed(0, "nested too deeply for the parser")


def _measure(path: str, source: bytes, tree: ast.Module, files: list[FileStats]) -> list[FunctionStats]:
    """Append the numbers of one file to `files` and return its functions."""
    walk = _Walk()
    walk.run(tree)
    # Bytes split at the line ends of Python and at no others; source encodings are supersets of ASCII.
    stripped = [line.strip() for line in source.splitlines()]
    docstring_lines = {number for start, end in walk.docstrings for number in range(start, end + 1)}
    code = (bool(line) and line[0] != _HASH and n not in docstring_lines for n, line in enumerate(stripped, start=1))
    tally = Tally(
        files=1,
        bytes=len(source),
        lines=len(stripped),
        code_lines=sum(code),
        functions=len(walk.functions),
        classes=walk.classes,
        complexity=sum(scope.complexity for scope in walk.functions),
        documentable=walk.documentable,
        documented=walk.documented,
    )
    files.append(FileStats(path=path, tally=tally))
    return [
        FunctionStats(path=path, line=f.line, name=f.name, lines=f.lines, complexity=f.complexity)
        for f in walk.functions
    ]


_HASH = ord("#")


@dataclass(slots=True)
class _Function:
    name: str
    line: int
    lines: int
    complexity: int = 1


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a node stands: its decisions belong to `function`, its definitions are named after `prefix`."""

    prefix: str = ""
    public: bool = True
    function: _Function | None = None


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class _Walk:
    """One pass over a syntax tree, without recursion: trees can be deeper than the interpreter's stack."""

    __slots__ = ("_open", "classes", "docstrings", "documentable", "documented", "functions")

    def __init__(self) -> None:
        self.functions: list[_Function] = []
        self.classes = 0
        self.documentable = 0
        self.documented = 0
        self.docstrings: list[tuple[int, int]] = []
        self._open: list[tuple[ast.AST, _Scope]] = []

    def run(self, module: ast.Module) -> None:
        if module.body:
            self._note_docstring(module, counts=True)
        self._push(module.body, _Scope())
        while self._open:
            node, scope = self._open.pop()
            if isinstance(node, _Definition):
                self._enter(node, scope)
                continue
            if scope.function is not None and (weigh := _WEIGHTS.get(type(node))) is not None:
                scope.function.complexity += weigh(node)
            for value in vars(node).values():
                if isinstance(value, list):
                    self._push(value, scope)
                elif isinstance(value, ast.AST) and value._fields:
                    self._open.append((value, scope))

    def _push(self, nodes: Iterable[object], scope: _Scope) -> None:
        self._open.extend((node, scope) for node in nodes if isinstance(node, ast.AST))

    def _enter(self, node: _Definition, scope: _Scope) -> None:
        """Count a definition and go on with its body in a scope of its own, with the rest in the scope around it."""
        name = scope.prefix + node.name
        public = scope.public and not node.name.startswith("_")
        self._note_docstring(node, counts=public)
        if isinstance(node, ast.ClassDef):
            self.classes += 1
            inner = _Scope(f"{name}.", public, scope.function)
            around: list[object] = [*node.decorator_list, *node.bases, *node.keywords]
        else:
            function = _Function(name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)
            self.functions.append(function)
            inner = _Scope(f"{name}.", False, function)
            around = [*node.decorator_list, node.args, node.returns]
        self._push(around, scope)
        self._push(node.body, inner)

    def _note_docstring(self, node: ast.Module | _Definition, *, counts: bool) -> None:
        self.documentable += counts
        match node.body:
            case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
                self.documented += counts
                # `def f(): "text"` is one line, and a line of code.
                first = docstring.lineno + (not isinstance(node, ast.Module) and docstring.lineno == node.lineno)
                self.docstrings.append((first, docstring.end_lineno or docstring.lineno))


def _one(node: ast.AST) -> int:
    return 1


def _case(case: ast.match_case) -> int:
    return (not _always_matches(case.pattern)) + (case.guard is not None)


def _always_matches(pattern: ast.pattern) -> bool:
    match pattern:
        case ast.MatchAs(pattern=None):
            return True
        case ast.MatchAs(pattern=inner) if inner is not None:
            return _always_matches(inner)
        case ast.MatchOr(patterns=patterns):
            return _always_matches(patterns[-1])
        case _:
            return False


_WEIGHTS: dict[type[ast.AST], Callable[[Any], int]] = {
    **dict.fromkeys((ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert), _one),
    ast.BoolOp: lambda node: len(node.values) - 1,
    ast.comprehension: lambda node: 1 + len(node.ifs),
    ast.match_case: _case,
}
"""The rule of complexity as a table; node types that are absent decide nothing."""


def _band(complexity: int) -> str:
    return next((label for bound, label in COMPLEXITY_BANDS if complexity <= bound), BAND_ABOVE)


def _hottest(functions: Iterable[FunctionStats], top: int) -> list[FunctionStats]:
    return heapq.nsmallest(top, functions, key=lambda f: (-f.complexity, f.path, f.line, f.name))


def merge(chunks: list[ChunkStats], top: int = 10) -> Census:
    """Add up the outcomes of all chunks; their order does not matter.

    Args:
        chunks: Outcomes of `analyse` over disjoint sets of files under one root.
        top: Length of the lists of hot spots and of largest files, 1 to `HOT_SPOTS_PER_CHUNK` (more could not be
            exact, as a chunk keeps no more).

    Raises:
        ValueError: `top` is out of bounds.
    """
    if not 1 <= top <= HOT_SPOTS_PER_CHUNK:
        raise ValueError(f"top is {top}: it must be between 1 and {HOT_SPOTS_PER_CHUNK}")
    files = [file for chunk in chunks for file in chunk.files]
    by_package: defaultdict[str, list[Tally]] = defaultdict(list)
    for file in files:
        by_package[file.path.partition("/")[0]].append(file.tally)
    packages = [_package(name, tallies) for name, tallies in by_package.items()]
    bands = sum((Counter(chunk.complexity_bands) for chunk in chunks), Counter[str]())
    return Census(
        total=_package("total", [file.tally for file in files]),
        packages=sorted(packages, key=lambda package: (-package.tally.code_lines, package.name)),
        hot_spots=_hottest((spot for chunk in chunks for spot in chunk.hot_spots), top),
        largest_files=heapq.nsmallest(top, files, key=lambda file: (-file.tally.lines, file.path)),
        complexity_bands={label: bands[label] for label in (*(label for _, label in COMPLEXITY_BANDS), BAND_ABOVE)},
        syntax_errors=_by_path(problem for chunk in chunks for problem in chunk.syntax_errors),
        unreadable=_by_path(problem for chunk in chunks for problem in chunk.unreadable),
    )


def _package(name: str, tallies: Iterable[Tally]) -> PackageStats:
    tally = sum(tallies, Tally())
    return PackageStats(
        name=name,
        tally=tally,
        mean_complexity=round(tally.complexity / tally.functions, 2) if tally.functions else 0.0,
        docstring_coverage=round(tally.documented / tally.documentable, 4) if tally.documentable else 1.0,
    )


def _by_path(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.path, problem.line))
