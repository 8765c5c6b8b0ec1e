"""Which files a program uses: on a made-up package, and on this one against the standard finder."""

from __future__ import annotations

import ast
import modulefinder
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detransfer.console import InputError
from detransfer.imports import code_digest, imported_files

PACKAGE = {
    "kit/__init__.py": "",
    "kit/plain.py": "from kit.deep import nested\n",
    "kit/unused.py": "import kit.plain\n",
    "kit/inside.py": "VALUE = 1\n",
    "kit/cycle_a.py": "import kit.cycle_b\n",
    "kit/cycle_b.py": "from kit.cycle_a import something\n",
    "kit/catalog.py": "NAME = 'catalog.yaml'\nOTHER = 'missing.csv'\nTEXT = 'see /etc/kit.yaml'\n",
    "kit/catalog.yaml": "a: 1\n",
    "kit/other.yaml": "b: 1\n",
    "kit/deep/__init__.py": "from .chosen import name\n",
    "kit/deep/chosen.py": "name = 1\n",
    "kit/deep/nested.py": "from ..inside import VALUE\nfrom . import sibling\n",
    "kit/deep/sibling.py": "",
    "kit/lazy/__init__.py": (
        "import importlib\ndef load(x):\n    return importlib.import_module(f'{__name__}.{x}')\n"
    ),
    "kit/lazy/one.py": "import kit.inside\n",
    "kit/lazy/more/two.py": "",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "kit"


def used(package: Path, program: str) -> set[str]:
    """Return what a program of this text uses, relative to the package, without the program."""
    file = package.parent / "program.py"
    file.write_text(program)
    files = imported_files(file, package)
    assert files == sorted(set(files)) and file in files
    return {str(f.relative_to(package)) for f in files if f != file}


INSIDE = {"__init__.py", "inside.py"}
NESTED = INSIDE | {"deep/__init__.py", "deep/chosen.py"}
NESTED |= {"deep/nested.py", "deep/sibling.py"}
LAZY = {"__init__.py", "lazy/__init__.py", "lazy/one.py", "lazy/more/two.py", "inside.py"}


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import os, json\n", set()),
        ("import kit\n", {"__init__.py"}),
        ("import kit.inside as i\n", INSIDE),
        ("from kit import inside\n", INSIDE),
        ("from kit.inside import VALUE\n", INSIDE),
        ("from kit import plain\n", NESTED | {"plain.py"}),
        ("import kit.cycle_a\n", {"__init__.py", "cycle_a.py", "cycle_b.py"}),
        ("import kit.catalog\n", {"__init__.py", "catalog.py", "catalog.yaml"}),
        ("import kit.lazy\n", LAZY),
        ("import kitchen.inside\n", set()),
        ("text = 'import kit.inside'\n", set()),
        ("def f():\n    if 1:\n        import kit.inside\n", INSIDE),
        ("try:\n    pass\nexcept E:\n    import kit.inside\n", INSIDE),
        ("try:\n    pass\nfinally:\n    import kit.inside\n", INSIDE),
        ("match 1:\n    case 1:\n        import kit.inside\n", INSIDE),
        ("class A:\n    async def f(self):\n        import kit.inside\n", INSIDE),
        ("for x in y:\n    pass\nelse:\n    import kit.inside\n", INSIDE),
        ("from importlib import import_module\nimport_module('kit.inside')\n", INSIDE),
        ("x = [__import__('kit.inside')]\n", INSIDE),
        ("import importlib\nimportlib.import_module(f'kit.lazy.{n}')\n", LAZY),
        ("import importlib\nimportlib.import_module(f'numpy.{n}')\n", set()),
    ],
)
def test_each_way_to_import(package: Path, program: str, expected: set[str]) -> None:
    assert used(package, program) == expected


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        ("import_module('.nested', __package__)", NESTED),
        ("import_module('..catalog', __package__)", {"catalog.py", "catalog.yaml"}),
        ("import_module(f'{__package__}.{x}')", NESTED),
        ("import_module(f'.{x}', __package__)", NESTED),
        ("import_module(f'.nes{x}', __package__)", NESTED),
        ("import_module(f'..{x}', __package__)", {f for f in PACKAGE if f.endswith(".py")}),
        ("import_module(NAMES[x])", NESTED),
    ],
)
def test_names_made_at_run_time_count_as_the_whole_package(
    package: Path, loader: str, expected: set[str]
) -> None:
    (package / "deep/loader.py").write_text(f"from importlib import import_module\n{loader}\n")
    always = {"__init__.py", "deep/__init__.py", "deep/chosen.py", "deep/loader.py"}
    expected = {name.removeprefix("kit/") for name in expected} | always
    found = used(package, "import kit.deep.loader\n")
    assert found - {"catalog.yaml"} == expected - {"catalog.yaml"}
    assert ("catalog.yaml" in found) == ("catalog.py" in expected)


def test_an_edited_file_is_read_again(package: Path) -> None:
    assert used(package, "import kit.inside\n") == {"__init__.py", "inside.py"}
    (package / "inside.py").write_text("import kit.catalog\n")
    assert "catalog.yaml" in used(package, "import kit.inside\n")


def test_paths_begin_as_given(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package.parent / "program.py").write_text("import kit.inside\n")
    monkeypatch.chdir(package.parent)
    files = imported_files(Path("program.py"), Path("kit"))
    assert files == [Path("kit/__init__.py"), Path("kit/inside.py"), Path("program.py")]


def test_a_program_that_cannot_be_read_is_named(package: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.py: there is no such program"):
        imported_files(package / "gone.py", package)
    (package / "inside.py").write_text("x = 1\ny = = 2\n")
    with pytest.raises(InputError, match=r"inside\.py: line 2: not Python"):
        used(package, "import kit.inside\n")


def test_the_digest_follows_contents_only(package: Path) -> None:
    files = [package / "inside.py", package / "catalog.yaml"]
    before = code_digest(files)
    copies = [package / "a", package / "b"]
    for copy, file in zip(copies, files, strict=True):
        copy.write_bytes(file.read_bytes())
    assert code_digest(copies) == before
    assert code_digest(files[::-1]) != before
    files[1].write_text("a: 2\n")
    assert code_digest(files) != before


def test_a_training_of_labels_does_not_depend_on_what_it_has_none_of(repository: Path) -> None:
    """Or an edit of a head, or of how detectors are scored, would train every control anew."""
    used = imported_files(repository / "scripts/train_labels.py", repository / "src/detransfer")
    names = {file.name for file in used}
    assert "chips.py" in names
    assert not {"heads.py", "predict.py", "evaluation.py"} & names


def test_agrees_with_the_standard_finder(repository: Path) -> None:
    """modulefinder reads compiled code; it sees no module that is loaded by name."""
    source = repository / "src/detransfer"
    for program in sorted((repository / "scripts").glob("*.py")):
        finder = modulefinder.ModuleFinder(path=[str(source.parent)])
        finder.run_script(str(program))
        places = [m.__file__ for m in finder.modules.values() if m.__file__]
        theirs = {Path(place) for place in places}
        ours = set(imported_files(program, source))
        assert theirs <= ours, f"{program.name}: missed {theirs - ours}"
        code = {file for file in ours if file.suffix == ".py"}
        if not any("import_module" in file.read_text() for file in code):
            assert code == theirs, f"{program.name}: {code - theirs} too many"


def test_what_really_runs_is_listed(repository: Path) -> None:
    """Import a program of the workflow for real and look at what Python loaded."""
    program = repository / "scripts/index.py"
    report = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='imported');"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('detransfer')))"
    )
    command = [sys.executable, "-c", report, str(program)]
    settings = {"PYTHONPATH": str(repository / "src")}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    loaded = {Path(name) for name in done.stdout.split()}
    assert len(loaded) > 5
    assert loaded <= set(imported_files(program, repository / "src/detransfer"))


def test_is_fast_enough_to_run_at_every_start(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / "src/detransfer/imports.py").read_text() * 2
    body = re.sub(r"^from __future__.*$", "", text, flags=re.MULTILINE)
    kit = tmp_path / "kit"
    kit.mkdir()
    for number in range(60):  # a chain of sixty modules of some 400 lines
        (kit / f"m{number}.py").write_text(f"import kit.m{number + 1}\n{body}")
    (tmp_path / "program.py").write_text("import kit.m0\n")
    start = time.perf_counter()
    files = imported_files(tmp_path / "program.py", kit)
    assert len(files) == 61
    assert time.perf_counter() - start < 3, "a first look takes about a third of a second"
    monkeypatch.setattr(ast, "parse", lambda *_: pytest.fail("parsed files are not remembered"))
    assert imported_files(tmp_path / "program.py", kit) == files


def test_dependencies_run_one_way_as_contributing_says(repository: Path) -> None:
    source, text = repository / "src" / "detransfer", (repository / "CONTRIBUTING.md").read_text()
    chain = re.search(r"one way: scripts ->(.*?)\.\n", text, re.DOTALL)
    assert chain
    layers = [re.findall(r"\w+", part) for part in re.sub(r"\(.*?\)", "", chain[1]).split("->")]
    packages = {each.name for each in source.iterdir() if (each / "__init__.py").is_file()}
    assert packages <= {name for layer in layers for name in layer}
    above: set[str] = set()
    for layer in layers:
        above |= {*layer}
        for name in layer:
            files = [source / f"{name}.py", *(source / name).rglob("*.py")]
            used = {
                each for file in files if file.is_file() for each in imported_files(file, source)
            }
            found = {each.relative_to(source).parts[0].removesuffix(".py") for each in used}
            assert name in found and not (above - {name}) & found, name


def test_modules_said_to_be_loaded_stand_for_the_package(repository: Path) -> None:
    source = repository / "src" / "detransfer"
    program = repository / "scripts" / "index.py"
    readers = source / "data" / "readers"
    loaded = {"detransfer.data.readers": ["detransfer.data.readers.voc"]}
    some = set(imported_files(program, source, loaded))
    every = set(imported_files(program, source))
    assert readers / "voc.py" in some
    assert readers / "coco.py" in every - some
