"""The token store: reading and checking its Parquet parts (contract: schemas/tokens.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Integer

from schemas.card import CARD_NAME
from schemas.errors import IntegrityError, UsageError
from schemas.paths import as_path
from schemas.tokens import WHOLE, code_type, tokens_schema
from vtok import artefacts
from vtok.files import missing_part, open_parquet
from vtok.parquet import described, numbers_of, read_footer
from vtok.tokens.parts import (
    HINT,
    arrays_of,
    codes_of,
    complete,
    open_verified,
    require_maker,
    require_page_checksums,
    unpack_usage,
    write_tokens,
)
from vtok.tokens.stats import health

__all__ = ["RowGroup", "TokenStore", "codes_of", "write_tokens"]


class RowGroup(NamedTuple):
    """Where some rows are: the unit of reading."""

    path: Path
    number: int
    rows: int


class TokenStore:
    """A finished token store of this schema version or the one before.

    Args:
        folder: the artefact's folder.
        unchecked: whether parts whose pages carry no checksums are accepted.

    Attributes:
        tokenizer: fingerprint of the tokenizer.
        codebook_size: codes are below this.
        ragged: whether rows have grids of their own.
        classes: names of the labels.
        schema: the columns that reading gives.

    Raises:
        UsageError: there is no finished token store.
        IntegrityError: card or index are damaged.
    """

    def __init__(self, folder: str | Path, *, unchecked: bool = False) -> None:
        self.folder, self.unchecked = as_path(folder), unchecked
        self.card = artefacts.load(self.folder, "tokens")
        self.parts = artefacts.load_index(self.folder).to_pylist()
        facts = self.card.facts
        try:
            self.tokenizer: str = facts["tokenizer"]
            self.codebook_size: int = facts["codebook_size"]
            self._grid = None if facts["grid"] is None else tuple(facts["grid"])
            self.classes: list[str] = facts["classes"]
            self.schema = tokens_schema(self.codebook_size, facts.get("audio_codebook_size", 0))
        except (KeyError, TypeError) as error:
            raise IntegrityError(
                f"the card is damaged: {error}",
                at=str(self.folder / CARD_NAME),
                hint="delete the card and run the same command again: it is rebuilt",
            ) from None
        self.ragged = self._grid is None
        self._sha256 = {part["path"]: part["sha256"] for part in self.parts}
        self._verified: set[Path] = set()

    @property
    def grid(self) -> tuple[int, int, int]:
        """(t, h, w) of every row.

        Raises:
            UsageError: the rows have grids of their own.
        """
        if self._grid is None:
            raise UsageError(
                "the rows of this store have different grids",
                at=str(self.folder),
                hint="read the grid of each row, or load crops of one size or views of one grid",
            )
        t, h, w = self._grid
        return t, h, w

    def grid_of(self, views: Sequence[str] | None = None) -> tuple[int, int, int]:
        """(t, h, w) of every row of some views, as the card has it; none: of every row.

        Raises:
            UsageError: they have different grids, or the card does not say which (an import).
        """
        if self._grid is not None or views is None:
            return self.grid
        said = {view["name"]: tuple(view["grid"]) for view in self.card.facts.get("views", [])}
        grids = sorted({said[name] for name in views if name in said})
        if len(grids) == 1:
            t, h, w = grids[0]
            return t, h, w
        raise UsageError(
            f"the rows of the views {', '.join(sorted(views))} have different grids"
            if grids
            else "the rows of this store have different grids, and its card does not say which view has which",
            at=str(self.folder),
            hint="choose views of one grid, or load crops of one size",
        )

    def splits(self) -> dict[str, int]:
        """Rows in each split."""
        out: dict[str, int] = {}
        for part in self.parts:
            out[part["split"]] = out.get(part["split"], 0) + part["rows"]
        return out

    def views(self) -> dict[str, int] | None:
        """Rows in each view; none: an import, whose parts may mix views."""
        if "imported_from" in self.card.facts:
            return None
        out: dict[str, int] = {}
        for part in self.parts:
            name = part["path"].removesuffix(".parquet").partition(".")[2] or WHOLE
            out[name] = out.get(name, 0) + part["rows"]
        return out

    def row_groups(self, split: str) -> list[RowGroup]:
        """All non-empty row groups of a split, in store order."""
        return list(self._row_groups(split))

    def _row_groups(self, split: str) -> Iterator[RowGroup]:
        for part in self.parts:
            if part["split"] == split and part["rows"]:
                yield from self.row_groups_of(part)

    def row_groups_of(self, part: Mapping[str, Any]) -> list[RowGroup]:
        """The row groups of one of `parts`; its footer is read."""
        path = self.folder / part["path"]
        layout = self._footer(path, part["footer_sha256"])
        return [RowGroup(path, i, layout.row_group(i).num_rows) for i in range(layout.num_row_groups)]

    def _footer(self, path: Path, sha256: str | None) -> pq.FileMetaData:
        """The layout of a part; where the index has no sha256 of it, it is believed until a row is read.

        Raises:
            VtokError: the part or the whole store is gone.
            IntegrityError: the part is damaged, or another one.
        """
        try:
            layout = read_footer(path, sha256)
        except IntegrityError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise missing_part(path, error.__cause__, "token store") from None
            require_maker(read_footer(path), path, self.tokenizer, self.codebook_size)  # says so if it is another's
            raise
        require_maker(layout, path, self.tokenizer, self.codebook_size)
        return layout

    def read(self, group: RowGroup, columns: list[str] | None = None) -> pa.Table:
        """The rows of one row group in the columns of `schema`; page checksums verified.

        Page checksums do not cover the footer, and a flipped bit in it (an offset, a type) can give other rows. So a
        part's sha256 is compared with the index once per process, before its first row is used.

        Raises:
            IntegrityError: a page is damaged, the part is not the one that was written, or its pages have no checksums.
        """
        self._verify(group.path)
        try:
            with open_parquet(group.path, page_checksum_verification=True) as file:
                return complete(file.read_row_group(group.number, columns=columns), self.schema, columns)
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(
                f"damaged row group {group.number}: {str(error).splitlines()[0]}", at=str(group.path), hint=HINT
            ) from error

    def _verify(self, path: Path) -> None:
        """Compares a part with the index, once."""
        if path in self._verified:
            return
        artefacts.verify_part(self.folder, path.name, self._sha256[path.name])
        if not self.unchecked:
            with open_parquet(path) as file, path.open("rb") as stream:
                require_page_checksums(stream, file.metadata, path)
        self._verified.add(path)

    def rows(self, split: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows of a split in store order, as dicts; `codes` and `audio_codes` are 1-D integer arrays."""
        for group in self._row_groups(split):
            table = self.read(group, columns)
            lists = {name: arrays_of(table, name) for name in ("codes", "audio_codes") if name in table.column_names}
            plain = table.drop_columns(list(lists)).to_pylist() if len(lists) < table.num_columns else None
            for number in range(table.num_rows):
                arrays = {name: values[number] for name, values in lists.items()}
                yield {**(plain[number] if plain is not None else {}), **arrays}

    def codes(self, split: str) -> Integer[np.ndarray, "n s"]:
        """All codes of a split in one array, uint16 or uint32.

        Raises:
            UsageError: the rows have different grids.
        """
        groups = self.row_groups(split)
        if not groups:
            return np.zeros((0, int(np.prod(self.grid))), code_type(self.codebook_size).to_pandas_dtype())
        return np.concatenate([codes_of(self.read(group, ["codes"])) for group in groups])

    def usage(self, parts: Iterable[Mapping[str, Any]] | None = None) -> Integer[np.ndarray, " k"]:
        """How often each code occurs, summed over the parts' footers.

        No page is read, except in a store whose index does not vouch for the footers yet.

        Args:
            parts: some of `parts`; none: all of them.

        Raises:
            IntegrityError: a footer is damaged, or not the one that was written.
        """
        total = np.zeros(self.codebook_size, dtype=np.int64)
        for part in self.parts if parts is None else parts:
            path = self.folder / part["path"]
            if part["footer_sha256"] is None:
                self._verify(path)
            facts = described(self._footer(path, part["footer_sha256"]), path, ("usage",))
            total += unpack_usage(facts["usage"], self.codebook_size)
        return total

    def summary(self) -> dict[str, Any]:
        """What the store holds, for people. `clips` is none where it is not known how many rows a clip has."""
        facts, views = health(self.usage()), self.views()
        return {
            "tokenizer": self.tokenizer,
            "codebook_size": self.codebook_size,
            "grid": self.card.facts["grid"],
            "mode": self.card.facts["mode"],
            "rows": self.card.counts["clips"],
            "clips": None if views is None else max(views.values(), default=0),
            "tokens": facts.codes,
            "bytes": self.card.counts["bytes"],
            "bits_per_token": round(8 * self.card.counts["bytes"] / max(1, facts.codes), 3),
            "perplexity": round(facts.perplexity, 2),
            "entropy_bits": round(facts.entropy_bits, 3),
            "dead_codes": facts.dead,
            "splits": self.splits(),
            "views": views,
            "classes": self.classes,
            "rejects": self.card.counts["rejects"],
        }

    def check(self) -> int:
        """Verifies every byte: sha256 of every part, page checksums, footers, ranges. Returns the number of rows.

        Raises:
            IntegrityError: what is damaged, and where.
        """
        rows = 0
        for part in self.parts:
            path = self.folder / part["path"]
            with open_verified(path, part["sha256"], unchecked=self.unchecked) as file:
                require_maker(file.metadata, path, self.tokenizer, self.codebook_size)
                table = complete(file.read(), self.schema)
            grids = (np.prod(grid) for grid in zip(*(numbers_of(table[f"grid_{axis}"]) for axis in "thw"), strict=True))
            codes = arrays_of(table, "codes")
            sound = all(len(row) == size for row, size in zip(codes, grids, strict=True))
            if (
                table.num_rows != part["rows"]
                or not sound
                or max(map(_largest, codes), default=0) >= self.codebook_size
            ):
                raise IntegrityError(
                    "rows or codes do not fit the index", at=str(path), hint="run `vtok tokenize` again"
                )
            self._check_sounds(table, path)
            rows += table.num_rows
        return rows

    def _check_sounds(self, table: pa.Table, path: Path) -> None:
        sounds = [sound for sound in arrays_of(table, "audio_codes") if sound is not None]
        grid = described(read_footer(path), path, ()).get("audio", {}).get("grid")
        count = None if grid is None else int(np.prod(grid))
        if max(map(_largest, sounds), default=-1) >= self.card.facts.get("audio_codebook_size", 0) or any(
            count is not None and len(sound) != count for sound in sounds
        ):
            raise IntegrityError(
                "codes of the sound do not fit the card", at=str(path), hint="run `vtok tokenize` again"
            )


def _largest(codes: Integer[np.ndarray, " s"]) -> int:
    return int(codes.max()) if codes.size else -1
