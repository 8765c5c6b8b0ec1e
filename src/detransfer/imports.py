"""Which files of this package a program uses, found without running it.

Snakemake notices an edited script, but not an edited module that the script imports. Each rule
therefore lists what :func:`imported_files` returns as inputs: an edited module makes stale what
used it and nothing else.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detransfer.console import InputError
from detransfer.files import digest, sha256

LOADERS = ("import_module", "__import__")
DATA_FILE = re.compile(r"(?!/)[\w./-]+\.(?:yaml|csv)")


@dataclass(frozen=True)
class _Mentions:
    """What one file names: modules, packages of which any module may be loaded, data files."""

    modules: frozenset[str]
    packages: frozenset[str]
    data: frozenset[str]


def imported_files(
    program: Path, source: Path, loaded: Mapping[str, Iterable[str]] | None = None
) -> list[Path]:
    """Return ``program`` and every file of the package in folder ``source`` that it uses, sorted.

    Counted are all ``import`` statements wherever they stand, directly or through other modules of
    the package, with the ``__init__.py`` of every package on the way; modules loaded by
    ``importlib.import_module``; and data files (.yaml, .csv) that a module names by a constant
    string relative to its own folder. A name that ``import_module`` gets at run time counts as
    every module below its constant beginning (``f"{__name__}.{format}"``), or below the package
    of the module that loads it; unless ``loaded`` says which modules of that package it will be.

    Paths begin as ``program`` and ``source`` do. Raises InputError for a file that is missing or
    is not Python.
    """
    found = {program}
    waiting = [program]
    while waiting:
        file = waiting.pop()
        if file.suffix != ".py":
            continue
        for other in _used(file, source, loaded or {}):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return sorted(found)


def code_digest(files: Iterable[Path]) -> str:
    """Return one SHA-256 for the contents of ``files``, in their order."""
    return digest(sha256(file) for file in files)


def _used(file: Path, source: Path, loaded: Mapping[str, Iterable[str]]) -> Iterator[Path]:
    """Yield the files that one file uses itself."""
    try:
        status = file.stat()
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such program") from None
    module, package = _names(file, source)
    mentions = _mentions(file, package, module, status.st_mtime_ns, status.st_size)
    for name in (module, *mentions.modules):
        yield from _module_files(name, source)
    for name in mentions.packages:
        if name in loaded:
            yield from (path for module in loaded[name] for path in _module_files(module, source))
        else:
            yield from _package_files(name or source.name, source)
    for name in mentions.data:
        if (file.parent / name).is_file():
            yield file.parent / name


def _names(file: Path, source: Path) -> tuple[str, str]:
    """Return a file's dotted module name and its package's; both empty for a program outside."""
    if not file.is_relative_to(source):
        return "", ""
    parts = file.relative_to(source.parent).with_suffix("").parts
    package = ".".join(parts[:-1])
    return (package if parts[-1] == "__init__" else ".".join(parts)), package


@functools.cache  # of thousands of questions in a plan few are new
def _module_files(name: str, source: Path) -> tuple[Path, ...]:
    """Return the files that importing ``name`` runs: its packages and itself, where they exist."""
    parts = name.split(".")
    if parts[0] != source.name:
        return ()
    places = [source.parent.joinpath(*parts[: n + 1]) for n in range(len(parts))]
    forms = [(place / "__init__.py", place.with_name(place.name + ".py")) for place in places]
    found = [[file for file in form if file.is_file()][:1] for form in forms]
    return tuple(file for first in found for file in first)


def _package_files(name: str, source: Path) -> Iterator[Path]:
    """Yield the files of a whole package and of the packages around it."""
    yield from _module_files(name, source)
    parts = name.split(".")
    if parts[0] == source.name:
        yield from source.parent.joinpath(*parts).rglob("*.py")


@functools.cache
def _mentions(file: Path, package: str, module: str, changed_ns: int, size: int) -> _Mentions:
    """Parse one file; the time of change and the size are part of the cache's key."""
    text = file.read_text(encoding="utf-8")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise InputError(f"{file}: line {error.lineno}: not Python: {error.msg}") from error
    modules: set[str] = set()
    packages: set[str] = set()
    data: set[str] = set()
    for statement in _statements(tree.body):
        modules.update(_imported(statement, package))
    # Walking every expression takes longer than parsing, and few files need it.
    if any(word in text for word in (*LOADERS, ".yaml", ".csv")):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _called(node) in LOADERS and node.args:
                name, whole = _loaded(node.args[0], module, package)
                (packages if whole else modules).add(name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                data.update([node.value] if DATA_FILE.fullmatch(node.value) else [])
    return _Mentions(frozenset(modules), frozenset(packages), frozenset(data))


def _statements(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Yield all statements, nested ones too, without entering expressions."""
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, field, None)
            if isinstance(inner, list):
                waiting.extend(inner)


def _imported(statement: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names of an import statement; ``from a import b`` may mean module a.b."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        base = _absolute("." * statement.level + (statement.module or ""), package)
        yield from (f"{base}.{alias.name}" for alias in statement.names)


def _absolute(name: str, package: str) -> str:
    """Resolve leading dots against a package: ``..x`` in ``a.b`` is ``a.x``."""
    bare = name.lstrip(".")
    level = len(name) - len(bare)
    if level == 0:
        return bare
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *([bare] if bare else [])])


def _called(call: ast.Call) -> str:
    """Return the last part of the name of the called function."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _loaded(argument: ast.expr, module: str, package: str) -> tuple[str, bool]:
    """Return what a loader's first argument names, and whether it means a whole package."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return _absolute(argument.value, package), False
    known = _known_beginning(argument, module, package)
    if "." not in known:
        return package, True
    above = known.rpartition(".")[0]
    dots = known[: len(known) - len(known.lstrip("."))]
    return _absolute(above if above.strip(".") else dots, package), True


def _known_beginning(text: ast.expr, module: str, package: str) -> str:
    """Return the beginning of an f-string up to its first part known only at run time."""
    known = ""
    for part in text.values if isinstance(text, ast.JoinedStr) else []:
        if isinstance(part, ast.Constant):
            known += str(part.value)
            continue
        value = part.value if isinstance(part, ast.FormattedValue) else part
        own = {"__name__": module, "__package__": package}
        if not (isinstance(value, ast.Name) and value.id in own):
            break
        known += own[value.id]
    return known
