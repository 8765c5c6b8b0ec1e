"""The catalog: where every archive comes from and which data sets they make up.

The facts lie in ``catalog.yaml`` beside this module. Importing it is cheap (no torch, no pandas),
because the workflow reads it before every run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from detransfer.data.formats import READERS
from detransfer.strict import Name, Strict, load_file, suggest

CATALOG = Path(__file__).with_name("catalog.yaml")
Digest256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DigestMd5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Login(Strict):
    """What a person needs before the owners hand out an archive."""

    account: str = Field(description="the account and permission that are needed")
    page: str = Field(description="the page with the download")


class Archive(Strict):
    """One official file: its source, how to check it, and its terms."""

    url: str = Field(description="official address")
    size: int | None = Field(None, gt=0, description="bytes; null where not confirmed")
    sha256: Digest256 | None = Field(None, description="null where nobody published one")
    md5: DigestMd5 | None = Field(None, description="null where nobody published one")
    checksum_source: str = Field(
        min_length=1, description="who published the checksums; unknown (why) where nobody did"
    )
    extract_to: str = Field(".", description="folder inside data/<dataset>/ to unpack into")
    licence: str = Field(description="terms of the content")
    login: Login | None = Field(None, description="null where anybody may download")
    citation: str = Field(description="what to cite")

    @model_validator(mode="after")
    def _stays_inside(self) -> Archive:
        place = Path(self.extract_to)
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"extract_to: {self.extract_to!r} leaves the data set's folder")
        return self

    @model_validator(mode="after")
    def _source_fits(self) -> Archive:
        known = self.sha256 is not None or self.md5 is not None
        if known == self.checksum_source.startswith("unknown"):
            raise ValueError("checksum_source: 'unknown (why)' exactly where no checksum is given")
        return self


class Dataset(Strict):
    """One data set: its archives or its folder, who reads them, and its official splits."""

    reader: str = Field(description="format: a name in detransfer.data.formats.READERS")
    archives: tuple[str, ...] = Field((), description="keys of `archives`")
    folder: Path | None = Field(
        None, description="a folder that is already extracted, instead of archives"
    )
    options: dict[str, Any] = Field({}, description="options of the reader")
    train_splits: tuple[str, ...] = Field(
        description="splits to train on; none: the data set is only evaluated on"
    )
    eval_split: str = Field(description="split to evaluate on")
    occlusion: str | None = Field(
        None,
        description="archive or folder with occlusion levels of `eval_split` in the form of Hoiem "
        "et al. (ECCV 2012)",
    )

    @model_validator(mode="after")
    def _reader_exists(self) -> Dataset:
        if self.reader not in READERS:
            raise ValueError(f"unknown reader {self.reader!r}{suggest(self.reader, READERS)}")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Dataset:
        if bool(self.archives) == (self.folder is not None):
            raise ValueError("give either `archives` or the `folder` of an extracted data set")
        return self

    @property
    def fetched(self) -> tuple[str, ...]:
        """The archives to fetch: those of the images, then that of the occlusion levels."""
        if self.occlusion is None or Path(self.occlusion).is_dir():
            return self.archives
        return (*self.archives, self.occlusion)


class Catalog(Strict):
    """All archives and data sets, by name."""

    archives: dict[str, Archive] = Field(description="by official file name")
    datasets: dict[Name, Dataset] = Field(description="by the name that a study calls them")

    @model_validator(mode="after")
    def _archives_exist(self) -> Catalog:
        for name, dataset in self.datasets.items():
            for archive in dataset.fetched:
                if archive not in self.archives:
                    hint = suggest(archive, self.archives)
                    raise ValueError(f"datasets.{name}: unknown archive {archive!r}{hint}")
        return self


def load_catalog(path: Path = CATALOG) -> Catalog:
    """Read and check the catalog.

    Raises InputError for a missing or malformed file, an unknown key, an unknown reader (with the
    closest known name) and a data set whose archive is not listed.
    """
    return load_file(path, Catalog)
