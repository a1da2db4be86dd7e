"""The token store gives back what was written, or says that it cannot."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import IntegrityError, UsageError, VtokError
from tests.tokens.making import GRID, TOKENIZER, codes_of_clip, make_store, token_row
from tests.tokens.stores import row_of, store_of
from tests.tokens.test_versions import VERSION_2
from vtok import artefacts
from vtok.files import sha256_of, write_table
from vtok.parquet import read_metadata, recover_part
from vtok.tokens.parts import open_verified, write_tokens
from vtok.tokens.store import TokenStore

SIZES = {"test": [3], "train": [9, 0, 6]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "tokens", SIZES)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tokens"))


def test_round_trip(made: Path) -> None:
    store = TokenStore(made)
    assert (store.tokenizer, store.codebook_size, store.grid) == (TOKENIZER, 64, GRID)
    assert store.splits() == {"test": 3, "train": 15}
    rows = [*store.rows("test"), *store.rows("train")]
    assert len(rows) == 18 == store.check()
    for number, row in enumerate(rows):
        wanted = token_row(number, "test" if number < 3 else "train", 64)
        assert np.array_equal(row.pop("codes"), wanted.pop("codes"))
        assert row == wanted
    assert np.array_equal(store.codes("train"), np.stack([codes_of_clip(n, 64) for n in range(3, 18)]))
    assert store.codes("val").shape == (0, 12)
    assert [row["clip_id"] for row in store.rows("test", ["clip_id"])] == ["clip-0000", "clip-0001", "clip-0002"]


def test_a_verified_part_lies_in_memory_of_arrow_s(made: Path) -> None:
    """A thread of Arrow's that lets go of memory of Python's while Python ends aborts the process."""
    part = next(made.glob("train-*.parquet"))
    before = pa.total_allocated_bytes()
    with open_verified(part, sha256_of(part)):
        assert pa.total_allocated_bytes() - before >= part.stat().st_size


def test_the_bytes_depend_on_the_rows_alone(made: Path, tmp_path: Path) -> None:
    again = make_store(tmp_path / "tokens", SIZES)
    assert {p.name: p.read_bytes() for p in made.iterdir()} == {p.name: p.read_bytes() for p in again.iterdir()}


@pytest.mark.parametrize(("codebook_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_the_width_of_a_code(tmp_path: Path, codebook_size: int, dtype: type) -> None:
    store = TokenStore(make_store(tmp_path / "tokens", {"train": [2]}, codebook_size=codebook_size))
    codes = store.codes("train")
    assert codes.dtype == dtype
    assert int(codes[0, 0]) == codebook_size - 1
    assert np.array_equal(codes, [codes_of_clip(0, codebook_size), codes_of_clip(1, codebook_size)])
    assert store.codes("val").dtype == dtype


def test_a_code_outside_the_codebook_is_never_written(tmp_path: Path) -> None:
    row = token_row(0, "train", 64)
    row["codes"][5] = 64
    with pytest.raises(ValueError, match="code 64 in a codebook of 64"):
        write_tokens(
            tmp_path / "p.parquet",
            [row],
            tokenizer=TOKENIZER,
            codebook_size=64,
            grid=GRID,
            plan="p",
            split="train",
            rejects=[],
            row_group_rows=4,
            point="",
        )
    assert not list(tmp_path.iterdir())


def test_summary(made: Path) -> None:
    store = TokenStore(made)
    codes = np.concatenate([store.codes("test"), store.codes("train")]).reshape(-1)
    counts = np.bincount(codes, minlength=64)
    share = counts[counts > 0] / counts.sum()
    bits = float(-(share * np.log2(share)).sum())
    summary = store.summary()
    assert np.array_equal(store.usage(), counts)
    assert (summary["rows"], summary["clips"], summary["views"]) == (18, 18, {"whole": 18})
    assert summary["tokens"] == 18 * 12
    assert summary["dead_codes"] == int((counts == 0).sum())
    assert summary["entropy_bits"] == round(bits, 3)
    assert summary["perplexity"] == round(2**bits, 2)
    size = sum((made / name).stat().st_size for name in ("test-00000.parquet", "train-00000.parquet"))
    size += sum((made / name).stat().st_size for name in ("train-00001.parquet", "train-00002.parquet"))
    assert summary["bytes"] == size
    assert summary["bits_per_token"] == round(8 * size / (18 * 12), 3)


def test_rows_are_no_clips_where_there_are_views() -> None:
    summary = TokenStore(VERSION_2).summary()
    assert (summary["rows"], summary["clips"], summary["views"]) == (20, 10, {"whole": 10, "mirrored": 10})


@pytest.mark.parametrize(("audio", "damaged"), [({"codebook_size": 5}, False), ({"codebook_size": 4}, True)])
def test_a_check_looks_at_the_sounds(tmp_path: Path, audio: dict[str, int], damaged: bool) -> None:
    """The card says how many codes of sound there are; the parts hold the codes 0 to 4."""
    rows = {"train-00000.parquet": [{**row_of(n, "train"), "audio_codes": np.arange(n, n + 2)} for n in range(4)]}
    store = TokenStore(store_of(tmp_path / "tokens", rows, audio_codebook_size=5))
    store.card.facts["audio_codebook_size"] = audio["codebook_size"]
    if damaged:
        with pytest.raises(IntegrityError, match="codes of the sound do not fit"):
            store.check()
    else:
        assert store.check() == 4


def _everything(folder: Path) -> list[object]:
    store = TokenStore(folder)
    out: list[object] = []
    for split in ("test", "train"):
        for row in store.rows(split):
            out.append({**row, "codes": row["codes"].tolist()})
    return out


@pytest.mark.parametrize("step", [331, pytest.param(67, marks=pytest.mark.soak)])
def test_flipped_bits_never_change_a_row(folder: Path, step: int) -> None:
    """Page checksums do not cover the footer, and some of its bits would give other rows."""
    part = folder / "train-00000.parquet"
    good, wanted = part.read_bytes(), _everything(folder)
    for offset in range(0, len(good), step):
        bad = bytearray(good)
        bad[offset] ^= 1 << (offset % 8)
        part.write_bytes(bytes(bad))
        with pytest.raises(IntegrityError, match="sha256"):
            TokenStore(folder).check()
        try:
            found = _everything(folder)
        except IntegrityError:
            continue
        assert found == wanted, f"a flipped bit at {offset} changed rows silently"


def test_flipped_bits_of_the_index_are_seen(folder: Path) -> None:
    index = folder / "_index.table"
    good = index.read_bytes()
    for offset in range(0, len(good), 67):
        bad = bytearray(good)
        bad[offset] ^= 1 << (offset % 8)
        index.write_bytes(bytes(bad))
        with pytest.raises(IntegrityError, match="index"):
            TokenStore(folder)


def test_truncation_is_seen(folder: Path) -> None:
    part = folder / "train-00000.parquet"
    good = part.read_bytes()
    for length in (0, 3, 4, 100, len(good) // 2, len(good) - 9, len(good) - 1):
        part.write_bytes(good[:length])
        with pytest.raises(IntegrityError):
            TokenStore(folder).check()
        with pytest.raises(IntegrityError, match="footer cannot be read"):
            TokenStore(folder).row_groups("train")


def test_a_footer_that_says_something_else_is_seen_without_reading_the_part(folder: Path) -> None:
    """The index has the sha256 of every footer: the histogram of the codes is believed only if it fits."""
    part = folder / "train-00000.parquet"
    good = part.read_bytes()
    length = int.from_bytes(good[-8:-4], "little")
    for at in range(len(good) - 8 - length, len(good), 61):
        part.write_bytes(good[:at] + bytes([good[at] ^ 2]) + good[at + 1 :])
        for read in (TokenStore(folder).usage, partial(TokenStore(folder).row_groups, "train")):
            with pytest.raises(IntegrityError):
                read()
    at = len(good) - 8 - length - 1
    part.write_bytes(good[:at] + bytes([good[at] ^ 2]) + good[at + 1 :])
    TokenStore(folder).usage()  # a page, which it does not read


def test_a_store_without_hashes_of_its_footers_is_read_whole(folder: Path) -> None:
    """As those are that were written before there were any."""
    wanted = TokenStore(folder).usage()
    index = artefacts.load_index(folder).drop_columns("footer_sha256")
    write_table(folder / "_index.table", index)
    plan, card, digest = artefacts.load_plan(folder), artefacts.read_card(folder), sha256_of(folder / "_index.table")
    artefacts.seal_card(folder, plan, index_sha256=digest, counts=card.counts, facts=card.facts)
    assert set(artefacts.load_index(folder)["footer_sha256"].to_pylist()) == {None}
    assert np.array_equal(TokenStore(folder).usage(), wanted)
    part = folder / "train-00000.parquet"
    good = part.read_bytes()
    part.write_bytes(good[:500] + bytes([good[500] ^ 2]) + good[501:])
    with pytest.raises(IntegrityError, match="sha256 differs"):
        TokenStore(folder).usage()


def test_a_page_that_says_other_codes_is_seen_while_reading(folder: Path) -> None:
    """A page altered after the part was verified: the checksum of the page is verified at every reading."""
    part = folder / "train-00000.parquet"
    store = TokenStore(folder)
    group = store.row_groups("train")[0]
    assert store.read(group, ["codes"]).num_rows == 4
    metadata = pq.ParquetFile(part).metadata.row_group(0)
    names = [metadata.column(i).path_in_schema for i in range(metadata.num_columns)]
    column = metadata.column(names.index("codes.list.element"))
    bad = bytearray(part.read_bytes())
    bad[column.data_page_offset + column.total_compressed_size - 2] ^= 0xFF
    part.write_bytes(bytes(bad))
    with pytest.raises(IntegrityError, match="damaged row group 0") as caught:
        store.read(group, ["codes"])
    assert "vtok tokenize" in caught.value.hint


def test_a_part_of_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", SIZES, tokenizer="b" * 64)
    shutil.copy(other / "train-00000.parquet", folder / "train-00000.parquet")
    with pytest.raises(IntegrityError, match=r"made by tokenizer bbbbbbbbbbbb with .*, the store by aaaaaaaaaaaa"):
        list(TokenStore(folder).rows("train"))
    with pytest.raises(IntegrityError, match="sha256"):
        TokenStore(folder).check()


def test_a_part_of_another_plan_is_not_recovered(folder: Path, tmp_path: Path) -> None:
    from vtok.artefacts import load_plan

    other = make_store(tmp_path / "other", SIZES, tokenizer="b" * 64)
    recover_part(folder / "train-00000.parquet", load_plan(folder))
    with pytest.raises(IntegrityError, match="another plan"):
        recover_part(other / "train-00000.parquet", load_plan(folder))


def test_a_missing_part(folder: Path) -> None:
    (folder / "train-00002.parquet").unlink()
    with pytest.raises(VtokError) as caught:
        TokenStore(folder).check()
    assert "train-00002.parquet" in caught.value.at and "missing" in caught.value.what
    with pytest.raises(VtokError):
        TokenStore(folder).row_groups("train")


def test_a_footer_without_its_facts_is_damage(folder: Path) -> None:
    """Valid JSON that lacks a key must not surface as a KeyError."""
    part = folder / "train-00000.parquet"
    part.write_bytes(part.read_bytes().replace(b'"tokenizer":', b'"tokenized":'))
    with pytest.raises(IntegrityError, match="footer cannot be read"):
        TokenStore(folder).row_groups("train")


def test_the_footer_describes_the_part(made: Path) -> None:
    facts = read_metadata(made / "train-00000.parquet")
    assert facts["tokenizer"] == TOKENIZER
    assert facts["codebook_size"] == 64 and facts["grid"] == list(GRID) and facts["mode"] == "exact"


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        TokenStore(tmp_path / "nowhere")


def test_uniform_codes_cost_their_entropy(tmp_path: Path) -> None:
    """targets.md S4: at 128 rows a row group, at most 1.06 x 14 bits a code of a codebook of 16,384."""
    grid = (4, 16, 16)
    random = np.random.default_rng(0)
    rows = [
        {**token_row(n, "train", 16_384, grid), "codes": random.integers(0, 16_384, 1024), "label": 0}
        for n in range(512)
    ]
    part = write_tokens(
        tmp_path / "p.parquet",
        rows,
        tokenizer=TOKENIZER,
        codebook_size=16_384,
        grid=grid,
        plan="p",
        split="train",
        rejects=[],
        row_group_rows=128,
        point="",
    )
    metadata = pq.ParquetFile(tmp_path / "p.parquet").metadata
    assert metadata.num_row_groups == 4
    bits = 8 * part.bytes / (512 * 1024)
    assert 14 <= bits <= 1.06 * 14
