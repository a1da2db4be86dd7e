"""The token store: reading, checking and writing its Parquet parts (contract: schemas/tokens.py)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Integer

from schemas.errors import IntegrityError
from schemas.paths import as_path
from schemas.tokens import tokens_schema
from schemas.version import SCHEMA_VERSIONS
from vtok import artefacts
from vtok.artefacts import Part
from vtok.files import open_parquet, read_table
from vtok.parquet import read_metadata, write_part
from vtok.tokens.stats import health, usage

_CODES = "codes.list.element"
_DICTIONARY = ["split", "class_name", "caption", "source", "source_sha256", "shard", "windowed_from"]


class RowGroup(NamedTuple):
    """Where some rows are: the unit of reading."""

    path: Path
    number: int
    rows: int


def write_tokens(
    path: Path,
    rows: list[dict[str, Any]],
    *,
    tokenizer: str,
    codebook_size: int,
    grid: tuple[int, int, int],
    plan: str,
    split: str,
    rejects: list[dict[str, Any]],
    row_group_rows: int,
    point: str,
) -> Part:
    """Writes one part.

    Codes are BYTE_STREAM_SPLIT under zstd: within 5% of log2(codebook size) bits on uniform codes. Every page carries
    a checksum. The footer holds the tokenizer's fingerprint and the codebook's usage in this part.

    Args:
        path: where.
        rows: dicts with the columns of `schemas.tokens.tokens_schema`; `codes` is a 1-D integer array.
        tokenizer: fingerprint, 64 hex characters.
        codebook_size: codes are below this.
        grid: (t, h, w) of every row.
        plan: fingerprint of the artefact's plan.
        split: of every row.
        rejects: rows of `schemas.clips.REJECTS`.
        row_group_rows: rows in a row group.
        point: prefix of the crash points.

    Raises:
        ValueError: a code is not below `codebook_size`.
    """
    counts = np.zeros(codebook_size, dtype=np.int64)
    for row in rows:
        codes = np.asarray(row["codes"])
        if codes.size and int(codes.max()) >= codebook_size:
            raise ValueError(f"code {int(codes.max())} in a codebook of {codebook_size}")
        counts += usage(codes, codebook_size)
    facts = health(counts)
    metadata = {
        "plan": plan,
        "split": split,
        "rejects": rejects,
        "schema_version": SCHEMA_VERSIONS["tokens"],
        "tokenizer": tokenizer,
        "codebook_size": codebook_size,
        "grid": list(grid),
        "mode": "exact",
        "usage": _pack(counts),
        "perplexity": facts.perplexity,
        "entropy_bits": facts.entropy_bits,
        "dead_codes": facts.dead,
    }
    table = pa.Table.from_pylist(rows, schema=tokens_schema(codebook_size))
    return write_part(
        path,
        table,
        metadata,
        point=point,
        row_group_size=row_group_rows,
        compression_level=3,
        use_dictionary=_DICTIONARY,
        column_encoding={_CODES: "BYTE_STREAM_SPLIT"},
    )


class TokenStore:
    """A finished token store.

    Args:
        folder: the artefact's folder.

    Raises:
        UsageError: there is no finished token store.
        IntegrityError: card or index are damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = as_path(folder)
        self.card = artefacts.load(self.folder, "tokens")
        self.parts = artefacts.load_index(self.folder).to_pylist()
        facts = self.card.facts
        self.tokenizer: str = facts["tokenizer"]
        self.codebook_size: int = facts["codebook_size"]
        self.grid: tuple[int, int, int] = tuple(facts["grid"])
        self.classes: list[str] = facts["classes"]
        self.schema = tokens_schema(self.codebook_size)
        self._sha256 = {part["path"]: part["sha256"] for part in self.parts}
        self._verified: set[Path] = set()

    def splits(self) -> dict[str, int]:
        """Clips in each split."""
        out: dict[str, int] = {}
        for part in self.parts:
            out[part["split"]] = out.get(part["split"], 0) + part["rows"]
        return out

    def row_groups(self, split: str) -> list[RowGroup]:
        """All non-empty row groups of a split, in store order."""
        groups = []
        for part in self.parts:
            if part["split"] != split or not part["rows"]:
                continue
            path = self.folder / part["path"]
            self._check_metadata(path)
            with open_parquet(path) as file:
                layout = file.metadata
                groups += [RowGroup(path, i, layout.row_group(i).num_rows) for i in range(layout.num_row_groups)]
        return groups

    def read(self, group: RowGroup, columns: list[str] | None = None) -> pa.Table:
        """The rows of one row group; page checksums verified.

        Page checksums do not cover the footer, and a flipped bit in it (an offset, a type) can give other rows. So a
        part's sha256 is compared with the index once per process, before its first row is used.

        Raises:
            IntegrityError: a page is damaged, or the part is not the one that was written.
        """
        if group.path not in self._verified:
            artefacts.verify_part(self.folder, group.path.name, self._sha256[group.path.name])
            self._verified.add(group.path)
        try:
            with open_parquet(group.path, page_checksum_verification=True) as file:
                return file.read_row_group(group.number, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(
                f"damaged row group {group.number}: {str(error).splitlines()[0]}",
                at=str(group.path),
                hint="delete the part and _vtok.json, then run `vtok tokenize` again; only this part is made anew",
            ) from error

    def rows(self, split: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows of a split in store order, as dicts; `codes` is a 1-D integer array."""
        for group in self.row_groups(split):
            table = self.read(group, columns)
            codes = codes_of(table) if "codes" in table.column_names else None
            for number, row in enumerate(
                table.drop_columns("codes").to_pylist() if codes is not None else table.to_pylist()
            ):
                yield row if codes is None else {**row, "codes": codes[number]}

    def codes(self, split: str) -> Integer[np.ndarray, "n s"]:
        """All codes of a split in one array, uint16 or uint32."""
        groups = self.row_groups(split)
        if not groups:
            dtype = np.uint16 if self.codebook_size <= 65_536 else np.uint32
            return np.zeros((0, int(np.prod(self.grid))), dtype=dtype)
        return np.concatenate([codes_of(self.read(group, ["codes"])) for group in groups])

    def usage(self) -> Integer[np.ndarray, " k"]:
        """How often each code occurs, summed over the parts' footers; no page is read."""
        total = np.zeros(self.codebook_size, dtype=np.int64)
        for part in self.parts:
            total += _unpack(read_metadata(self.folder / part["path"])["usage"], self.codebook_size)
        return total

    def summary(self) -> dict[str, Any]:
        """What the store holds, for people."""
        facts = health(self.usage())
        return {
            "tokenizer": self.tokenizer,
            "codebook_size": self.codebook_size,
            "grid": list(self.grid),
            "mode": self.card.facts["mode"],
            "clips": self.card.counts["clips"],
            "tokens": facts.codes,
            "bytes": self.card.counts["bytes"],
            "bits_per_token": round(8 * self.card.counts["bytes"] / max(1, facts.codes), 3),
            "perplexity": round(facts.perplexity, 2),
            "entropy_bits": round(facts.entropy_bits, 3),
            "dead_codes": facts.dead,
            "splits": self.splits(),
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
            path = artefacts.verify_part(self.folder, part["path"], part["sha256"])
            self._check_metadata(path)
            table = read_table(path, schema=self.schema)
            codes = codes_of(table)
            if table.num_rows != part["rows"] or (codes.size and int(codes.max()) >= self.codebook_size):
                raise IntegrityError(
                    "rows or codes do not fit the index", at=str(path), hint="run `vtok tokenize` again"
                )
            rows += table.num_rows
        return rows

    def _check_metadata(self, path: Path) -> None:
        metadata = read_metadata(path, ("tokenizer", "codebook_size"))
        if metadata["tokenizer"] != self.tokenizer or metadata["codebook_size"] != self.codebook_size:
            raise IntegrityError(
                f"the part was made by tokenizer {str(metadata['tokenizer'])[:12]}, the store by {self.tokenizer[:12]}",
                at=str(path),
                hint="a part of another store was put here: delete it and _vtok.json, run `vtok tokenize` again",
            )


def _pack(counts: Integer[np.ndarray, " k"]) -> str:
    """A usage histogram as text: little-endian uint32 in byte planes, zstd, base64.

    In a part of 512 clips of 1,024 codes (16,384 different ones) it costs 0.2 bits a code, a list in JSON 0.75.
    """
    planes = counts.astype("<u4").view(np.uint8).reshape(-1, 4).T
    packed = pa.Codec("zstd", compression_level=9).compress(planes.tobytes(), asbytes=True)
    return base64.b64encode(packed).decode()


def _unpack(text: str, codebook_size: int) -> Integer[np.ndarray, " k"]:
    """The histogram that `_pack` wrote."""
    data = pa.Codec("zstd").decompress(base64.b64decode(text), 4 * codebook_size, asbytes=True)
    planes = np.frombuffer(data, np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T).view("<u4").reshape(-1).astype(np.int64)


def codes_of(table: pa.Table) -> Integer[np.ndarray, "n s"]:
    """The codes column as a 2-D array; all rows must have the same length."""
    column = table.column("codes").combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)
