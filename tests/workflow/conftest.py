"""Fixtures of the tests that start Snakemake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout, copy_repository


@pytest.fixture(scope="session")
def checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the working tree for dry runs, with the shared data beside it where there are any.

    Its tests leave it as it is.
    """
    place = tmp_path_factory.mktemp("checkout")
    shared = repository.parent / "shared" / "data"
    if shared.is_dir():
        (place / "shared").mkdir()
        (place / "shared" / "data").symlink_to(shared.resolve())
    return copy_repository(repository, place / "repository")
