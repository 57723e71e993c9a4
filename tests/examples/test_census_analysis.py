"""The census on small made trees, where every number is known, and on the standard library, against a second count."""

from __future__ import annotations

import ast
import json
import os
import sysconfig
import tokenize
import warnings
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.census import analysis, report
from examples.census.analysis import Census, ChunkStats, FunctionStats, analyse, list_sources, merge, split

STDLIB = Path(sysconfig.get_paths()["stdlib"])
SLICE = ("json", "asyncio", "email", "re", "xml")


def write(root: Path, **sources: str | bytes) -> None:
    """Write `package__module="source"` as `package/module.py`."""
    for name, source in sources.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source if isinstance(source, bytes) else source.encode())


def analyse_source(tmp_path: Path, source: str | bytes) -> ChunkStats:
    write(tmp_path, sample=source)
    return analyse(["sample.py"], str(tmp_path))


def census_of(root: Path, chunk_files: int | None = None, top: int = 10) -> Census:
    return merge([analyse(chunk, str(root)) for chunk in split(list_sources(root), chunk_files)], top)


# -- list_sources ------------------------------------------------------------------------------------------------


def test_sources_are_sorted_and_skipped_directories_left_out(tmp_path: Path) -> None:
    write(tmp_path, b="", a__z="", a__b="", tests__t="", a__test__t="", __pycache__="")
    for directory in ("__pycache__", "site-packages/x", ".git", "node_modules"):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        (tmp_path / directory / "hidden.py").touch()
    (tmp_path / "notes.txt").touch()

    def names(include_tests: bool) -> list[str]:
        return [os.path.relpath(path, tmp_path) for path in list_sources(tmp_path, include_tests=include_tests)]

    assert names(include_tests=False) == ["a/b.py", "a/z.py", "b.py"]
    assert names(include_tests=True) == ["a/b.py", "a/test/t.py", "a/z.py", "b.py", "tests/t.py"]


def test_a_root_that_is_itself_called_tests_is_read(tmp_path: Path) -> None:
    write(tmp_path, tests__t="")
    assert list_sources(tmp_path / "tests") == [str(tmp_path / "tests" / "t.py")]


def test_a_relative_root_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, pkg__m="x = 1\n")
    monkeypatch.chdir(tmp_path)
    assert list_sources(Path("pkg")) == [str(tmp_path / "pkg" / "m.py")]
    assert analyse(list_sources(Path("pkg")), "pkg").files[0].path == "m.py"


@pytest.mark.parametrize("name", ["absent", "file.py"])
def test_a_root_that_is_no_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.py").touch()
    with pytest.raises(NotADirectoryError, match=f"{name} is not a directory"):
        list_sources(tmp_path / name)


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    write(tmp_path, pkg__m="")
    (tmp_path / "pkg" / "again").symlink_to(tmp_path)
    assert list_sources(tmp_path) == [str(tmp_path / "pkg" / "m.py")]


# -- split -------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 5000), max_size=80),
    chunk_files=st.one_of(st.none(), st.integers(1, 100)),
)
def test_split_is_a_balanced_partition(sizes: list[int], chunk_files: int | None) -> None:
    by_path = {f"f{number:03}.py": size for number, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "_size_bytes", by_path.__getitem__)
        chunks = split(list(by_path), chunk_files)
        assert split(list(reversed(by_path)), chunk_files) == chunks, "the order of the files must not matter"
    assert sorted(path for chunk in chunks for path in chunk) == sorted(by_path)
    assert all(chunk == sorted(chunk) and chunk for chunk in chunks)
    loads = [sum(by_path[path] for path in chunk) for chunk in chunks]
    assert loads == sorted(loads, reverse=True)
    if chunks:
        assert max(loads) <= sum(sizes) / len(chunks) + max(sizes)
    if chunk_files is not None:
        assert len(chunks) == -(-len(sizes) // chunk_files)


@pytest.mark.parametrize(("files", "chunks"), [(0, 0), (1, 1), (19, 19), (100, 20), (640, 40), (5000, 60)])
def test_split_aims_at_20_to_60_chunks(files: int, chunks: int) -> None:
    assert len(split([f"/absent/{number}.py" for number in range(files)])) == chunks


def test_split_places_the_heaviest_files_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"a.py": 1, "b.py": 1, "c.py": 1, "d.py": 1, "e.py": 4}
    monkeypatch.setattr(analysis, "_size_bytes", sizes.__getitem__)
    assert split(list(sizes), 3) == [["e.py"], ["a.py", "b.py", "c.py", "d.py"]]


def test_split_refuses_chunks_of_no_files() -> None:
    with pytest.raises(ValueError, match="chunk_files is 0"):
        split(["a.py"], 0)


# -- analyse -----------------------------------------------------------------------------------------------------

COMPLEXITY = {
    "return 1": 1,
    "if a: pass\nelif b: pass\nelse: pass": 3,
    "return a if b else c": 2,
    "for x in y: pass\nelse: pass": 2,
    "while a and b and c or d: pass": 5,
    "try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass": 3,
    "with a, b: pass": 1,
    "assert a, b": 2,
    "return [x for y in z if y if x for x in y]": 5,
    "return {k: v for k, v in z}": 2,
    "match a:\n case 1 | 2: pass\n case [x, y] if x: pass\n case _: pass": 4,
    "match a:\n case 1: pass\n case other if other: pass\n case (1 | _) as x: pass": 3,
    "return lambda x: 1 if x else 2": 2,
    "class A:\n  x = 1 if a else 2": 2,
}


@pytest.mark.parametrize(("body", "complexity"), COMPLEXITY.items())
@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_rule_of_complexity(tmp_path: Path, keyword: str, body: str, complexity: int) -> None:
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    stats = analyse_source(tmp_path, f"{keyword} f(a, b, c, d, y, z):\n{indented}\n")
    assert [spot.complexity for spot in stats.hot_spots] == [complexity]


def test_async_loops_count_as_loops(tmp_path: Path) -> None:
    stats = analyse_source(
        tmp_path, "async def f(y):\n async for x in y: pass\n async with y: return [x async for x in y]\n"
    )
    assert stats.hot_spots[0].complexity == 3


def test_nested_functions_count_for_themselves_and_defaults_for_the_place_of_definition(tmp_path: Path) -> None:
    stats = analyse_source(
        tmp_path,
        """
class A:
    @decorate(1 if x else 2)
    def outer(self):
        if self:
            def inner(a=1 if self else 2) -> int if self else str:
                return a or 1

        return inner
""",
    )
    assert stats.hot_spots == [
        FunctionStats(path="sample.py", line=4, name="A.outer", lines=6, complexity=4),
        FunctionStats(path="sample.py", line=6, name="A.outer.inner", lines=2, complexity=2),
    ]
    assert stats.complexity_bands == {"1-5": 2}


def test_counts_of_one_file(tmp_path: Path) -> None:
    source = '''"""Module.

# not a comment
"""

import os  # code

# a comment
def public():
    """Has one."""
    def nested(): pass

def bare(): "One line."

def missing(): pass

def _private(): pass

class C:
    """Has one,

    of three lines."""
    def method(self): pass
    def __init__(self): pass

class _P:
    def method(self): pass
'''
    tally = analyse_source(tmp_path, source).files[0].tally
    assert tally.lines == len(source.splitlines())
    assert tally.bytes == len(source)
    code = [line for line in source.splitlines() if line.lstrip().startswith(("import", "def", "class"))]
    assert tally.code_lines == len(code) == 11
    assert (tally.functions, tally.classes, tally.complexity) == (8, 2, 8)
    assert (tally.documentable, tally.documented) == (6, 4), "module, public, bare, C; without: missing, C.method"


@pytest.mark.parametrize("source", [b"", b"\n\n", b"# only a comment\r\n", b"\xef\xbb\xbf"])
def test_empty_files_have_nothing_to_document(tmp_path: Path, source: bytes) -> None:
    stats = analyse_source(tmp_path, source)
    assert not stats.syntax_errors
    assert (stats.files[0].tally.documentable, stats.files[0].tally.functions) == (0, 0)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(tmp_path: Path, end: str) -> None:
    """Form feed and vertical tab are white space and end no line, unlike in str.splitlines."""
    tally = analyse_source(tmp_path, end.join(["x = '\x0b'", "\x0c", "def f():", "    return x"])).files[0].tally
    assert (tally.lines, tally.code_lines, tally.functions) == (4, 3, 1)


def test_declared_encodings_are_obeyed(tmp_path: Path) -> None:
    source = "# -*- coding: latin-1 -*-\ndef caf\xe9(): pass\n".encode("latin-1")
    assert [spot.name for spot in analyse_source(tmp_path, source).hot_spots] == ["caf\xe9"]


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        (b"x = 1\ndef f(:\n", 2, "invalid syntax"),
        (b"print 'python 2'\n", 1, "Missing parentheses"),
        (b"x = '\xe9'\n", None, "utf-8"),
        (b"# coding: nonsense\n", None, "nonsense"),
        (b"x = 1\0\n", None, "null bytes"),
        (b"x = " + b"(" * 5000 + b")" * 5000, None, "too many nested"),
        (b"x = " + b"-" * 100_000 + b"1", None, "nested too deeply"),
    ],
    ids=["syntax", "python2", "not-utf8", "unknown-encoding", "null-byte", "brackets", "operators"],
)
def test_files_that_do_not_parse_are_counted_and_named(
    tmp_path: Path, source: bytes, line: int | None, reason: str
) -> None:
    write(tmp_path, good="def f(): pass\n")
    write(tmp_path, bad=source)
    stats = analyse(["bad.py", "good.py"], str(tmp_path))
    (problem,) = stats.syntax_errors
    assert problem.path == "bad.py"
    assert line is None or problem.line == line
    assert reason in problem.reason
    assert [(file.path, file.tally.functions) for file in stats.files] == [("bad.py", 0), ("good.py", 1)]
    assert stats.files[0].tally.lines == len(source.splitlines())


def test_a_deep_tree_that_parses_is_walked_without_recursion(tmp_path: Path) -> None:
    source = "def f(x):\n    return " + " + ".join(["x"] * 900) + "\n"
    assert analyse_source(tmp_path, source).files[0].tally.functions == 1


def test_warnings_of_the_parser_are_no_errors(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stats = analyse_source(tmp_path, "x = '\\d'\nassert (x, 1)\n")
    assert stats.syntax_errors == []


def test_unreadable_files_are_reported_and_the_others_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, good="x = 1\n", gone="x = 1\n", huge="x = 1\n" * 100)
    (tmp_path / "broken_link.py").symlink_to(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / os.fsdecode(b"not_utf8_\xff.py")).touch()
    monkeypatch.setattr(analysis, "FILE_BYTES_MAX", 100)
    chunks = split(list_sources(tmp_path))
    (tmp_path / "gone.py").unlink()
    census = merge([analyse(chunk, str(tmp_path)) for chunk in chunks])
    assert {problem.path: problem.reason for problem in census.unreadable} == {
        "broken_link.py": "No such file or directory",
        "gone.py": "No such file or directory",
        "huge.py": "600 bytes are more than the 100 a source file may have",
        "not_utf8_\\xff.py": "No such file or directory",
        "pipe.py": "not a regular file",
    }
    assert [file.path for file in census.largest_files] == ["good.py"]
    assert msgspec.json.decode(msgspec.json.encode(census), type=Census) == census


def test_directories_that_cannot_be_listed_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, good="x = 1\n", closed__m="x = 1\n")
    scandir = os.scandir

    def deny(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    census = census_of(tmp_path)
    assert [(p.path, p.reason) for p in census.unreadable] == [("closed", "the directory could not be listed")]
    assert census.total.tally.files == 1


# -- merge -------------------------------------------------------------------------------------------------------


def test_merge_sums_per_package_and_ranks(tmp_path: Path) -> None:
    write(
        tmp_path,
        pkg__a='"""Doc."""\ndef f(x):\n    return x or 1\n',
        pkg__sub__b="def g(x):\n    return x and x and x\n\n\n\n",
        pkg="x = 1\n",
        alone="def h(): pass\n",
    )
    census = census_of(tmp_path, chunk_files=1)
    assert [(p.name, p.tally.files, p.tally.functions, p.mean_complexity) for p in census.packages] == [
        ("pkg", 2, 2, 2.5),
        ("alone.py", 1, 1, 1.0),
        ("pkg.py", 1, 0, 0.0),
    ]
    assert [p.docstring_coverage for p in census.packages] == [0.25, 0.0, 0.0]
    assert [(f"{s.path}:{s.line}", s.complexity) for s in census.hot_spots] == [
        ("pkg/sub/b.py:1", 3),
        ("pkg/a.py:2", 2),
        ("alone.py:1", 1),
    ]
    assert [file.path for file in census.largest_files] == ["pkg/sub/b.py", "pkg/a.py", "alone.py", "pkg.py"]
    assert census.total.tally == sum((p.tally for p in census.packages), analysis.Tally())


def test_merge_of_nothing() -> None:
    census = merge([])
    assert (census.total.tally.files, census.packages, census.total.docstring_coverage) == (0, [], 1.0)
    assert "0 files" in report.render(census)


@pytest.mark.parametrize("top", [0, analysis.HOT_SPOTS_PER_CHUNK + 1])
def test_merge_refuses_lists_it_cannot_fill_exactly(top: int) -> None:
    with pytest.raises(ValueError, match=f"top is {top}"):
        merge([], top)


# -- the standard library ----------------------------------------------------------------------------------------


class SecondCount(ast.NodeVisitor):
    """The rules again, by recursion."""

    def __init__(self) -> None:
        self.functions = self.classes = self.complexity = 0
        self.inside = 0

    def definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.functions += 1
        self.complexity += 1
        for outside in (*node.decorator_list, node.args, node.returns):
            if outside is not None:
                self.visit(outside)
        self.inside += 1
        for inner in node.body:
            self.visit(inner)
        self.inside -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = definition

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.classes += 1
        self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> None:
        if self.inside:
            match node:
                case ast.If() | ast.IfExp() | ast.For() | ast.AsyncFor() | ast.While() | ast.Assert():
                    self.complexity += 1
                case ast.ExceptHandler():
                    self.complexity += 1
                case ast.BoolOp(values=values):
                    self.complexity += len(values) - 1
                case ast.comprehension(ifs=ifs):
                    self.complexity += 1 + len(ifs)
                case ast.match_case():
                    raise NotImplementedError("the slice of the standard library has no match statement")
        super().generic_visit(node)


@pytest.mark.parametrize("package", SLICE)
def test_the_standard_library_against_a_second_count(package: str) -> None:
    root = STDLIB / package
    census = census_of(root)
    second = SecondCount()
    lines = 0
    for path in list_sources(root):
        with tokenize.open(path) as file:
            source = file.read()
        second.visit(ast.parse(source))
        lines += len(source.replace("\r\n", "\n").removesuffix("\n").split("\n")) if source else 0
    tally = census.total.tally
    assert (tally.functions, tally.classes, tally.complexity) == (second.functions, second.classes, second.complexity)
    assert tally.lines == lines
    assert tally.functions == sum(census.complexity_bands.values()) > 0
    assert census.syntax_errors == census.unreadable == []


def test_the_cut_does_not_change_the_census() -> None:
    root = STDLIB / "asyncio"
    whole = merge([analyse(list_sources(root), str(root))])
    chunks = [analyse(chunk, str(root)) for chunk in split(list_sources(root), 3)]
    assert merge(chunks) == merge(chunks[::-1]) == whole


def test_hot_spots_point_at_their_definitions() -> None:
    for spot in census_of(STDLIB / "email").hot_spots:
        line = (STDLIB / "email" / spot.path).read_text().split("\n")[spot.line - 1]
        assert f"def {spot.name.rpartition('.')[2]}(" in line


def test_chunks_travel_as_json_and_stay_small() -> None:
    root = STDLIB / "email"
    for chunk in split(list_sources(root)):
        stats = analyse(chunk, str(root))
        data = msgspec.json.encode(stats)
        assert msgspec.json.decode(data, type=ChunkStats) == stats
        assert json.loads(data)["files"]
        assert len(data) < 32 * 1024


def test_real_files_that_do_not_parse() -> None:
    """Test data of the standard library, where the interpreter ships it."""
    root = STDLIB / "lib2to3" / "tests" / "data"
    if not root.is_dir():
        pytest.skip("this interpreter comes without lib2to3/tests")
    census = census_of(root)
    named = {problem.path for problem in census.syntax_errors}
    assert {"py2_test_grammar.py", "crlf.py", "different_encoding.py"} <= named
    assert census.total.tally.files > len(named)
    assert f"Syntax errors ({len(named)})" in report.render(census)


# -- report ------------------------------------------------------------------------------------------------------


def test_report_names_what_a_developer_looks_for_and_fits() -> None:
    census = census_of(STDLIB / "email")
    text = report.render(census, "email")
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert text == "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    worst = census.hot_spots[0]
    assert f"{worst.path}:{worst.line}" in text
    assert f"{census.total.tally.functions:,} functions" in text
    assert all(file.path in text for file in census.largest_files)


def test_report_shortens_long_names_and_never_obeys_them(tmp_path: Path) -> None:
    write(tmp_path, **{"p" * 200 + "__" + "m" * 200: f"def {'f' * 300}(): pass\n"})
    (tmp_path / "evil\x1b[31m\n.py").write_text("def f(:\n")
    text = report.render(census_of(tmp_path), "x" * 300 + "\x1b")
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert "\x1b" not in text
    assert "evil?[31m?.py:1" in text


def test_report_counts_the_problems_it_does_not_list(tmp_path: Path) -> None:
    write(tmp_path, **{f"bad{number:02}": "def f(:\n" for number in range(13)})
    text = report.render(census_of(tmp_path))
    assert "Syntax errors (13)" in text
    assert "... and 3 more" in text
    assert "bad10.py" not in text.partition("Syntax errors")[2]


def test_command_prints_text_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, pkg__m="def f(): pass\n", tests__t="def t(): pass\n")
    assert report.main([str(tmp_path)]) == 0
    assert "1 file, " in capsys.readouterr().out
    assert report.main([str(tmp_path), "--json", "--include-tests"]) == 0
    decoded = msgspec.json.decode(capsys.readouterr().out, type=Census)
    assert decoded.total.tally.functions == 2


def test_command_refuses_a_directory_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path / "absent")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is not a directory" in captured.err
