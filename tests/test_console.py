"""Errors as they are printed."""

from __future__ import annotations

import pickle

import pytest

from detransfer.console import InputError, duration, run


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("a\x0bb", r"a\x0bb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("one\rtwo\u2028three", r"one\rtwo\u2028three"),
        ("\udc80 of a name that is no UTF-8", r"\udc80 of a name that is no UTF-8"),
        ("déjà vu, 猫", "déjà vu, 猫"),
    ],
)
def test_what_is_quoted_neither_breaks_the_line_nor_steers_the_terminal(
    quoted: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise InputError(f"file.csv: has {quoted}\nand a second fault")

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: file.csv: has {shown}\nand a second fault\n"


def test_a_loaders_process_can_hand_it_on() -> None:
    error = pickle.loads(pickle.dumps(InputError("a\x00b")))
    assert str(error) == r"a\x00b"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0s"),
        (8.4, "8s"),
        (59.6, "1m00s"),
        (750, "12m30s"),
        (2 * 3600 + 5 * 60 + 59, "2h05m"),
        (30 * 3600, "1d06h"),
        (100 * 86400, "100d00h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
