"""What readers do with bad objects: stop with a hint, or count."""

from __future__ import annotations

import pytest

from detransfer.console import InputError
from detransfer.data.readers.faults import Faults


def test_fail_raises_with_a_hint() -> None:
    with pytest.raises(InputError) as caught:
        Faults("fail").bad("inverted", "a.xml: box 3 is inverted")
    assert str(caught.value) == (
        "a.xml: box 3 is inverted; set the reader's option 'on_bad_object' to 'drop' to leave such "
        "objects out"
    )


def test_drop_counts_by_kind_and_logs_the_first_of_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    faults = Faults("drop")
    assert faults.counts == {}
    faults.bad("outside", "a.xml: box 1")
    faults.bad("inverted", "a.xml: box 2")
    faults.bad("outside", "b.xml: box 7", count=3)
    faults.report()
    assert faults.counts == {"inverted": 1, "outside": 4}
    assert "left out: outside (a.xml: box 1)" in caplog.text
    assert "b.xml" not in caplog.text
    assert "left out 4 objects: outside" in caplog.text
