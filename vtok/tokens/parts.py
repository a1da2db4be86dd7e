"""Parts of a token store: writing one, and reading one back in the newest version's columns (schemas/tokens.py)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Integer

from schemas.errors import IntegrityError, UsageError
from schemas.tokens import DEFAULTS, tokens_schema
from schemas.version import SCHEMA_VERSIONS
from vtok.artefacts import Part
from vtok.files import missing_part, read_buffer
from vtok.parquet import described, numbers_of, write_part
from vtok.tokens.pages import has_page_checksums
from vtok.tokens.stats import health, usage

Mode = Literal["exact", "fast"]
"""`exact`: a clip's codes do not depend on its neighbours, the batch or the worker. `fast`: they may."""

HINT = "delete the part and _vtok.json, then run `vtok tokenize` again; only this part is made anew"
_SPLIT_BYTES = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ("codes", "audio_codes")}
_DICTIONARY = [
    "view_id",
    "split",
    "class_name",
    "caption",
    "source",
    "source_sha256",
    "decoder",
    "shard",
    "windowed_from",
]


def write_tokens(
    path: Path,
    rows: list[dict[str, Any]],
    *,
    tokenizer: str,
    codebook_size: int,
    grid: tuple[int, int, int] | None,
    plan: str,
    split: str,
    rejects: list[dict[str, Any]],
    row_group_rows: int,
    point: str,
    mode: Mode = "exact",
    audio_codebook_size: int = 0,
    audio: Mapping[str, Any] | None = None,
    made_by: Mapping[str, Any] | None = None,
) -> Part:
    """Writes one part.

    Codes are BYTE_STREAM_SPLIT under zstd: within 5% of log2(codebook size) bits on uniform codes. Every page carries
    a checksum. The footer holds the tokenizer's fingerprint and the codebook's usage in this part.

    Args:
        path: where.
        rows: dicts with the columns of `schemas.tokens.tokens_schema`; `codes` and `audio_codes` are 1-D integer
            arrays; the columns of `schemas.tokens.DEFAULTS` may be left out.
        tokenizer: fingerprint, 64 hex characters.
        codebook_size: codes are below this.
        grid: (t, h, w) of every row; none: every row has its own.
        plan: fingerprint of what the part is made from, or of the artefact's plan.
        split: of every row.
        rejects: rows of `schemas.clips.REJECTS`.
        row_group_rows: rows in a row group.
        point: prefix of the crash points.
        mode: how the codes were made.
        audio_codebook_size: audio codes are below this.
        audio: what made the audio codes (`fingerprint`, `codebook_size`, `grid`, ...); the footer has it, and how many
            rows have none (`silent`).
        made_by: what else the footer says about how the codes were made, JSON-compatible.

    Raises:
        ValueError: a row does not keep the contract.
    """
    if audio is not None:
        silent = sum(row.get("audio_codes") is None for row in rows)
        audio_codebook_size, audio = audio["codebook_size"], {**audio, "silent": silent}
    counts = np.zeros(codebook_size, dtype=np.int64)
    for row in rows:
        check_row({**DEFAULTS, **row}, codebook_size, audio_codebook_size, grid)
        counts += usage(np.asarray(row["codes"]), codebook_size)
    names = [(row["clip_id"], row.get("view_id", DEFAULTS["view_id"])) for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two rows of clip {twice[0]!r}, view {twice[1]!r}")
    facts = health(counts)
    metadata = {
        "plan": plan,
        "split": split,
        "rejects": rejects,
        "schema_version": SCHEMA_VERSIONS["tokens"],
        "tokenizer": tokenizer,
        "codebook_size": codebook_size,
        "grid": None if grid is None else list(grid),
        "mode": mode,
        "usage": _pack(counts),
        "perplexity": facts.perplexity,
        "entropy_bits": facts.entropy_bits,
        "dead_codes": facts.dead,
        "made_by": dict(made_by or {}),
        **({} if audio is None else {"audio": dict(audio)}),
    }
    schema = tokens_schema(codebook_size, audio_codebook_size)
    columns = [_column(rows, field) for field in schema]
    return write_part(
        path,
        pa.Table.from_arrays(columns, schema=schema),
        metadata,
        point=point,
        row_group_size=row_group_rows,
        compression_level=3,
        use_dictionary=_DICTIONARY,
        column_encoding=_SPLIT_BYTES,
    )


def check_row(row: dict[str, Any], codebook_size: int, audio_codebook_size: int, grid: tuple[int, ...] | None) -> None:
    """Refuses a row that cannot be true; it has the columns of `schemas.tokens.tokens_schema`.

    Raises:
        ValueError: codes beyond the codebook, not as many as the grid has, or pixel frames of another size.
    """
    for name, size in (("codes", codebook_size), ("audio_codes", audio_codebook_size)):
        codes = np.asarray(row[name] if row[name] is not None else [], dtype=np.int64)
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            wrong = int(codes.min()) if codes.min() < 0 else int(codes.max())
            raise ValueError(f"code {wrong} in a codebook of {size}")
    own = (row["grid_t"], row["grid_h"], row["grid_w"])
    if len(row["codes"]) != int(np.prod(own)) or (grid is not None and own != tuple(grid)):
        raise ValueError(f"{len(row['codes'])} codes with a grid of {own} in a part of {grid or 'any grid'}")
    frame = 3 * row["height"] * row["width"]
    if row["cond_frames"] is not None and (min(row["height"], row["width"]) < 1 or len(row["cond_frames"]) % frame):
        raise ValueError(f"{len(row['cond_frames'])} bytes are no RGB frames of {row['height']} x {row['width']}")


def _column(rows: list[dict[str, Any]], field: pa.Field) -> pa.Array:
    values = [row.get(field.name, DEFAULTS.get(field.name)) for row in rows]
    if not pa.types.is_list(field.type):
        return pa.array(values, field.type)
    lengths = [0 if value is None else len(value) for value in values]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    arrays = [np.asarray(value) for value in values if value is not None and len(value)]
    flat: Any = np.concatenate(arrays).astype(field.type.value_type.to_pandas_dtype()) if arrays else []
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(flat, field.type.value_type), type=field.type, mask=missing
    )


def open_verified(path: Path, sha256: str | None, *, unchecked: bool = False) -> pq.ParquetFile:
    """A whole part in memory, the very bytes that its sha256 was taken over.

    Args:
        path: where.
        sha256: from the store's index; none: nothing is verified.
        unchecked: whether pages without checksums are accepted.

    Raises:
        VtokError: there is no such file.
        IntegrityError: the bytes are not those that were written, or are no Parquet file with page checksums.
    """
    try:
        data = read_buffer(path)
    except OSError as error:
        raise missing_part(path, error, "token store") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise IntegrityError(
            "the file is not the one that was written: its sha256 differs from the index", at=str(path), hint=HINT
        )
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=sha256 is not None)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError("the part's footer cannot be read", at=str(path), hint=HINT) from error
    if sha256 is not None and not unchecked:
        require_page_checksums(pa.BufferReader(data), file.metadata, path)
    return file


def require_page_checksums(stream: Any, layout: pq.FileMetaData, path: Path) -> None:
    """Refuses a file whose pages carry no checksums.

    Raises:
        IntegrityError: there are none.
    """
    if not has_page_checksums(stream, layout):
        raise IntegrityError(
            "the part has no page checksums: damage to it could go unnoticed",
            at=str(path),
            hint="make it anew with vtok, or open the store with TokenStore(folder, unchecked=True)",
        )


def require_maker(layout: pq.FileMetaData, path: Path, tokenizer: str, codebook_size: int) -> None:
    """Refuses a part that was made by another tokenizer than its store.

    Raises:
        IntegrityError: it was, or does not say by which.
    """
    metadata = described(layout, path, ("tokenizer", "codebook_size"))
    if (metadata["tokenizer"], metadata["codebook_size"]) != (tokenizer, codebook_size):
        raise IntegrityError(
            f"the part was made by tokenizer {str(metadata['tokenizer'])[:12]} with a codebook of "
            f"{metadata['codebook_size']}, the store by {tokenizer[:12]} with {codebook_size}",
            at=str(path),
            hint="a part of another store was put here: delete it and _vtok.json, run `vtok tokenize` again",
        )


def complete(table: pa.Table, schema: pa.Schema, columns: Iterable[str] | None = None) -> pa.Table:
    """The columns of the newest version, in its order; those that an older one lacks hold `schemas.tokens.DEFAULTS`.

    Args:
        table: rows of a part of any version that is read.
        schema: `tokens_schema` of the store.
        columns: only these, in this order; none: all.
    """
    names = schema.names if columns is None else list(columns)
    arrays = [
        _as(table[name], schema.field(name).type)
        if name in table.column_names
        else pa.array([DEFAULTS[name]] * table.num_rows, schema.field(name).type)
        for name in names
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema([schema.field(name) for name in names]))


def _as(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    """A cast where one is needed: the first one imports all of pyarrow's compute functions."""
    return column if column.type == type_ else column.cast(type_)


def codes_of(table: pa.Table) -> Integer[np.ndarray, "n s"]:
    """The codes column as a 2-D array.

    Raises:
        UsageError: the rows do not all have the same length.
    """
    rows = arrays_of(table, "codes")
    if len({len(row) for row in rows}) > 1:
        raise UsageError("the rows have different grids: their codes fit no single array", hint="read them row by row")
    return np.stack([row for row in rows if row is not None]) if rows else np.zeros((0, 0), np.uint16)


def arrays_of(table: pa.Table, name: str) -> list[Any]:
    """A column of lists as one array a row; none where there is no list."""
    column = table.column(name).combine_chunks()
    flat, bounds = numbers_of(column.values), numbers_of(column.offsets)
    valid = column.is_valid().to_pylist()
    return [flat[bounds[i] : bounds[i + 1]] if valid[i] else None for i in range(len(column))]


def _pack(counts: Integer[np.ndarray, " k"]) -> str:
    """A usage histogram as text: little-endian uint32 in byte planes, zstd, base64.

    In a part of 512 clips of 1,024 codes (16,384 different ones) it costs 0.2 bits a code, a list in JSON 0.75.
    """
    planes = counts.astype("<u4").view(np.uint8).reshape(-1, 4).T
    packed = pa.Codec("zstd", compression_level=9).compress(planes.tobytes(), asbytes=True)
    return base64.b64encode(packed).decode()


def unpack_usage(text: str, codebook_size: int) -> Integer[np.ndarray, " k"]:
    """The usage histogram in a part's footer."""
    data = pa.Codec("zstd").decompress(base64.b64decode(text), 4 * codebook_size, asbytes=True)
    planes = np.frombuffer(data, np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T).view("<u4").reshape(-1).astype(np.int64)
