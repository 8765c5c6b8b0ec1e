"""Every command that the README and the pages print can be given so: planned, not run."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout

pytestmark = [pytest.mark.workflow]

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("bash", "sh", "shell", "console")
ACTIVATION = ".venv/bin/activate"
# Promised whatever the README prints: a study, one table, eight devices, real images.
PROMISED = (
    "make demo",
    "make test",
    "snakemake results/table5.csv",
    "snakemake --cores 8 --resources gpu=8 -- all",
    "snakemake --configfile config/sample.yaml --config mirror=../shared/data/mirror",
)


def commands(text: str) -> Iterator[str]:
    """Yield the commands in the fenced code blocks of a Markdown text.

    In a block of ``console``, lines that begin with ``$ `` are commands and the rest is output.
    """
    for language, body in re.findall(r"^ *```(\w+)[^\n]*\n(.*?)^ *```", text, re.M | re.S):
        if language not in SHELLS:
            continue
        for line in body.replace("\\\n", " ").splitlines():
            command = line.strip()
            if language == "console":
                if not command.startswith("$ "):
                    continue
                command = command.removeprefix("$ ")
            if command and not command.startswith("#"):
                yield " ".join(shlex.split(command, comments=True)) if "#" in command else command


def check(checkout: Checkout, command: str) -> None:
    """Check one command; raises AssertionError for one of a form that nothing here tries out."""
    words = shlex.split(command)
    assert not re.search(r"[;&|<>`$]", command), f"{command}: one plain command a line, please"
    match words:
        case ["snakemake", *rest]:
            check_snakemake(checkout, rest)
        case ["make", *rest]:
            check_make(checkout, rest)
        case ["python", program, *rest] if program.startswith("scripts/"):
            check_program(checkout, program, rest)
        case ["source" | ".", file]:
            assert file == ACTIVATION and ".venv" in (checkout.folder / "Makefile").read_text()
        case ["git", "clone", _] | ["git", "clone", _, _]:
            pass
        case ["cd", folder]:
            assert re.fullmatch(r"[\w.-]+", folder)
        case _:
            raise AssertionError(f"{command}: no test knows how to try this command out")


def check_snakemake(checkout: Checkout, words: list[str]) -> None:
    """Plan the command; a report needs results, so that there the targets alone are planned."""
    if "--report" in words:
        place = words.index("--report")
        assert words[place + 1 :][:1], "--report: name the file"
        words = words[:place] + words[place + 2 :]
    result = checkout.snakemake("-n", *words)
    assert result.jobs(), result.output


def check_make(checkout: Checkout, words: list[str]) -> None:
    targets = [word for word in words if "=" not in word]
    help_text = checkout.run("make", "--silent", "help").output
    for target in targets:
        assert re.search(rf"^ +{target} ", help_text, re.M), f"make {target}: not in `make help`"
    for variable in set(words) - set(targets):
        name = variable.partition("=")[0]
        makefile = (checkout.folder / "Makefile").read_text()
        assert re.search(rf"^{name} \?=", makefile, re.M), f"{name}: not a variable of the Makefile"
    result = checkout.run("make", "-n", *words)
    assert result.code == 0, result.output
    assert not (checkout.folder / ".venv").exists()


def check_program(checkout: Checkout, program: str, words: list[str]) -> None:
    inner = words.index("--") if "--" in words else len(words)
    result = checkout.run(
        "env", f"PYTHONPATH={checkout.folder / 'src'}", sys.executable, program, "--help"
    )
    assert result.code == 0, result.output
    for option in (word.partition("=")[0] for word in words[:inner] if word.startswith("--")):
        assert re.search(rf"{option}\b", result.output), f"{program}: no option {option}"
    if words[inner + 1 :]:
        check(checkout, shlex.join(words[inner + 1 :]))


def planned(command: str) -> str:
    """Return the command as it is tried out: each Snakemake command is only planned, once."""
    return command.replace("snakemake -n ", "snakemake ")


PRINTED = dict.fromkeys(
    planned(command)
    for command in (*PROMISED, *(each for page in PAGES for each in commands(page.read_text())))
)


@pytest.mark.parametrize("command", PRINTED)
def test_command_can_be_given_as_printed(checkout: Checkout, command: str) -> None:
    if "../shared/" in command and not (checkout.folder / "../shared/data").is_dir():
        pytest.skip("no sample data beside the repository (../shared/data)")
    check(checkout, command)


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("snakemake results/table99.csv", "No rule to produce results/table99.csv"),
        ("snakemake --resources gpu=8 all", "ValueError"),  # `all` is taken for a resource
        ("make demmo", "make demmo: not in `make help`"),
        ("make demo COARS=4", "COARS: not a variable"),
        ("python scripts/figure1.py --png x.png --jpeg y.jpg", "no option --jpeg"),
        ("python scripts/figure99.py", "No such file"),
        ("python -c 1", "no test knows"),
        ("snakemake -n && make demo", "one plain command a line"),
    ],
)
def test_a_command_that_does_not_work_would_be_found(
    checkout: Checkout, command: str, fault: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(fault)):
        check(checkout, command)


def test_commands_are_found_in_every_form_of_block() -> None:
    text = """
```bash
# a comment
snakemake results/x.csv  # another
python scripts/a.py \\
    --long
```
```text
not this
```
  ```console
  $ make demo
  output
  ```
"""
    assert list(commands(text)) == [
        "snakemake results/x.csv",
        "python scripts/a.py      --long",
        "make demo",
    ]
