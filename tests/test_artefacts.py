"""The life of an artefact's folder: planned, resumed, sealed, and never trusted without its seal."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.card import CARD_NAME, INDEX_NAME, PLAN_NAME, REJECTS_NAME, Plan, with_checksum
from schemas.clips import reject_row
from schemas.errors import ConfigError, IntegrityError, UsageError, VtokError
from tests.shards.making import make_shards
from vtok import artefacts
from vtok.artefacts import Part
from vtok.cli import main
from vtok.files import TEMP_MARK
from vtok.parquet import write_part
from vtok.video.errors import VideoError

UNITS = ["a.parquet", "b.parquet"]
INPUTS = {"shards": "0" * 64}


def plan_of(**config: object) -> Plan:
    return artefacts.make_plan("tokens", {"batch_size": 8, "deep": {"mode": "exact"}, **config}, INPUTS, UNITS)


def make_parts(folder: Path, plan: Plan) -> list[Part]:
    parts = []
    for number, name in enumerate(plan.units):
        rejects = [reject_row("tokens", f"{number}.avi", None, "corrupt", "bad block")] * number
        metadata = {"plan": plan.fingerprint, "split": "train", "rejects": rejects}
        parts.append(write_part(folder / name, pa.table({"n": [number] * 3}), metadata, point=""))
    return parts


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder, plan = tmp_path / "tokens", plan_of()
    artefacts.begin(folder, plan)
    artefacts.seal(folder, plan, make_parts(folder, plan), counts={"clips": 6}, facts={"classes": ["x"]})
    return folder


def test_life_cycle(tmp_path: Path) -> None:
    folder, plan = tmp_path / "run" / "tokens", plan_of()
    assert artefacts.begin(folder, plan) is None
    assert [p.name for p in folder.iterdir()] == [PLAN_NAME]
    assert artefacts.load_plan(folder) == plan
    with pytest.raises(UsageError, match="tokens in this folder are not finished") as unfinished:
        artefacts.load(folder, "tokens")
    assert "vtok tokenize" in unfinished.value.hint and "resumes" in unfinished.value.hint
    parts = make_parts(folder, plan)
    assert artefacts.begin(folder, plan) is None, "parts alone do not finish it"
    card = artefacts.seal(folder, plan, list(reversed(parts)), counts={"clips": 6})
    assert card == artefacts.load(folder, "tokens") == artefacts.load(folder) == artefacts.begin(folder, plan)
    assert card.counts == {"clips": 6, "rejects": 1, "bytes": sum((folder / name).stat().st_size for name in UNITS)}
    index = artefacts.load_index(folder).to_pylist()
    assert [row["path"] for row in index] == UNITS, "the plan's order, whatever order the parts came in"
    assert [(row["rows"], row["rejects"]) for row in index] == [(3, 0), (3, 1)]
    assert artefacts.load_rejects(folder)["source"].to_pylist() == ["1.avi"]
    for row in index:
        assert artefacts.verify_part(folder, row["path"], row["sha256"]) == folder / row["path"]


def test_the_card_holds_no_clock_host_or_path(sealed: Path) -> None:
    text = (sealed / CARD_NAME).read_text() + (sealed / PLAN_NAME).read_text()
    assert str(sealed) not in text
    assert set(json.loads((sealed / CARD_NAME).read_text())) == {
        "kind",
        "schema_version",
        "code_version",
        "config",
        "config_fingerprint",
        "inputs",
        "counts",
        "index_sha256",
        "rejects_sha256",
        "files",
        "facts",
        "sha256",
    }


def test_sealing_needs_every_part(tmp_path: Path) -> None:
    folder, plan = tmp_path / "tokens", plan_of()
    artefacts.begin(folder, plan)
    with pytest.raises(AssertionError):
        artefacts.seal(folder, plan, make_parts(folder, plan)[:1], counts={})
    assert not (folder / CARD_NAME).exists()


def test_resuming_sweeps_what_a_kill_left(tmp_path: Path) -> None:
    folder, plan = tmp_path / "tokens", plan_of()
    artefacts.begin(folder, plan)
    (folder / f"{TEMP_MARK}123-a.parquet").write_bytes(b"half")
    artefacts.begin(folder, plan)
    assert [p.name for p in folder.iterdir()] == [PLAN_NAME]


def test_another_plan_is_refused_and_the_difference_named(sealed: Path) -> None:
    before = {p.name: p.read_bytes() for p in sealed.iterdir()}
    with pytest.raises(UsageError) as caught:
        artefacts.begin(sealed, plan_of(batch_size=4, deep={"mode": "fast"}))
    assert "batch_size: 8 there, 4 now" in caught.value.what
    assert 'deep.mode: "exact" there, "fast" now' in caught.value.what
    assert caught.value.at == str(sealed) and "delete" in caught.value.hint
    other = artefacts.make_plan("tokens", plan_of().config, {"shards": "1" * 64}, UNITS)
    with pytest.raises(UsageError, match=r"inputs\.shards: "):
        artefacts.begin(sealed, other)
    assert {p.name: p.read_bytes() for p in sealed.iterdir()} == before


def test_many_differences_are_counted(sealed: Path) -> None:
    with pytest.raises(UsageError, match="and 2 more"):
        artefacts.begin(sealed, plan_of(a=1, b=2, c=3, d=4, e=5))


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty and holds no vtok artefact"):
        artefacts.begin(tmp_path, plan_of())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_kind_is_refused(sealed: Path) -> None:
    with pytest.raises(UsageError, match="this is a tokens folder, not shards") as caught:
        artefacts.load(sealed, "shards")
    assert "vtok data shard" in caught.value.hint


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder") as caught:
        artefacts.load(tmp_path / "x", "prior")
    assert "vtok train prior" in caught.value.hint
    with pytest.raises(UsageError, match="no prior here"):
        artefacts.load(tmp_path, "prior")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"kind": "tokens"}', b"\xff\xfe"])
def test_a_damaged_card(sealed: Path, damage: bytes) -> None:
    (sealed / CARD_NAME).write_bytes(damage)
    with pytest.raises(IntegrityError, match="card is damaged") as caught:
        artefacts.load(sealed, "tokens")
    assert "rebuilt" in caught.value.hint


@pytest.mark.parametrize("damage", [b"", b"{", b'{"kind": "tokens"}', b"\xff\xfe"])
def test_a_damaged_plan(sealed: Path, damage: bytes) -> None:
    (sealed / PLAN_NAME).write_bytes(damage)
    with pytest.raises(IntegrityError, match="plan cannot be read"):
        artefacts.begin(sealed, plan_of())


def test_a_damaged_or_missing_index(sealed: Path) -> None:
    index = sealed / INDEX_NAME
    good = index.read_bytes()
    index.write_bytes(good[:-1])
    with pytest.raises(IntegrityError, match="not the one that the card seals") as caught:
        artefacts.load(sealed, "tokens")
    assert caught.value.at == str(index)
    index.unlink()
    with pytest.raises(IntegrityError, match="index is missing"):
        artefacts.load(sealed, "tokens")
    with pytest.raises(IntegrityError, match="index is missing"):
        artefacts.begin(sealed, plan_of())
    index.write_bytes(good)
    artefacts.load(sealed, "tokens")


def test_a_swapped_part(sealed: Path) -> None:
    shutil.copy(sealed / "a.parquet", sealed / "b.parquet")
    row = artefacts.load_index(sealed).to_pylist()[1]
    with pytest.raises(IntegrityError, match="sha256 differs from the index"):
        artefacts.verify_part(sealed, row["path"], row["sha256"])
    (sealed / "b.parquet").unlink()
    with pytest.raises(VtokError, match="a part is missing"):
        artefacts.verify_part(sealed, row["path"], row["sha256"])


def test_a_damaged_rejects_table(sealed: Path) -> None:
    path = sealed / REJECTS_NAME
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(IntegrityError):
        artefacts.load_rejects(sealed)


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", [CARD_NAME, PLAN_NAME])
def test_every_flipped_bit_of_card_and_plan_is_seen(sealed: Path, name: str, bits: int) -> None:
    """In every byte; of its bits one, which is another from byte to byte, or all."""
    read = artefacts.read_card if name == CARD_NAME else artefacts.load_plan
    good, wanted, seen = (sealed / name).read_bytes(), read(sealed), 0
    for at in range(len(good)):
        for bit in range(at, at + bits):
            bad = bytearray(good)
            bad[at] ^= 1 << bit % 8
            (sealed / name).write_bytes(bad)
            try:
                assert read(sealed) == wanted, f"bit {bit % 8} of byte {at} gives another {name}"
            except IntegrityError:
                seen += 1
    assert seen == bits * len(good), "no bit of these files is of no account"


@pytest.mark.parametrize("change", [{"facts": {"classes": ["y"]}}, {"sha256": None}, {"sha256": "0" * 64}])
def test_an_edited_card_is_refused(sealed: Path, change: dict[str, object]) -> None:
    card = json.loads((sealed / CARD_NAME).read_text())
    (sealed / CARD_NAME).write_text(json.dumps({**card, **change}))
    with pytest.raises(IntegrityError, match="card is damaged"):
        artefacts.load(sealed)


def test_card_and_plan_without_a_checksum_are_older_and_read(sealed: Path) -> None:
    card, plan = artefacts.load(sealed), artefacts.load_plan(sealed)
    for name, lost in ((CARD_NAME, {"sha256", "rejects_sha256"}), (PLAN_NAME, {"sha256"})):
        fields = json.loads((sealed / name).read_text())
        (sealed / name).write_text(json.dumps({key: value for key, value in fields.items() if key not in lost}))
    assert artefacts.load(sealed) == card.model_copy(update={"rejects_sha256": None})
    assert artefacts.load_plan(sealed) == plan
    assert artefacts.load_rejects(sealed).num_rows == 1


def test_every_damage_to_the_rejects_is_seen(sealed: Path) -> None:
    path = sealed / REJECTS_NAME
    good = path.read_bytes()
    for at in range(0, len(good), 16):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        artefacts.load(sealed)
        with pytest.raises(IntegrityError, match="not the one that the card seals") as caught:
            artefacts.load_rejects(sealed)
    assert caught.value.at == str(path)
    path.unlink()
    with pytest.raises(VtokError, match="no such file"):
        artefacts.load_rejects(sealed)


def test_a_version_from_the_future(sealed: Path) -> None:
    card = json.loads((sealed / CARD_NAME).read_text())
    (sealed / CARD_NAME).write_text(json.dumps(with_checksum({**card, "schema_version": 99})))
    with pytest.raises(UsageError, match="schema version 99 of tokens; this vtok reads 1 and 2") as caught:
        artefacts.load(sealed, "tokens")
    assert "vtok version" in caught.value.hint


@pytest.mark.parametrize("lost", [(), (CARD_NAME,), (CARD_NAME, "_index.parquet")])
def test_tables_under_their_old_names_are_refused_and_nothing_is_touched(sealed: Path, lost: tuple[str, ...]) -> None:
    """Sealed, unsealed, and killed before the index: no command takes such a folder for one that needs its seal."""
    (sealed / INDEX_NAME).rename(sealed / "_index.parquet")
    (sealed / REJECTS_NAME).rename(sealed / "_rejects.parquet")
    for name in lost:
        (sealed / name).unlink()
    before = {p.name: p.read_bytes() for p in sealed.iterdir()}
    for use in (lambda: artefacts.load(sealed, "tokens"), lambda: artefacts.begin(sealed, plan_of())):
        with pytest.raises(UsageError, match="an older vtok made this folder") as caught:
            use()
        assert "_rejects.parquet" in caught.value.what and "_rejects.parquet to _rejects.table" in caught.value.hint
    for command in ("tokens check", "tokens repair", "tokens stats", "status", "data rejects ls"):
        assert main([*command.split(), str(sealed)]) == 2, command
    assert main(["check", str(sealed)]) == 1
    assert {p.name: p.read_bytes() for p in sealed.iterdir()} == before


def test_an_old_folder_is_kept_by_renaming_its_tables(sealed: Path) -> None:
    card = artefacts.load(sealed, "tokens")
    (sealed / INDEX_NAME).rename(sealed / "_index.parquet")
    with pytest.raises(UsageError, match="an older vtok") as caught:
        artefacts.load(sealed)
    (pair,) = re.findall(r"(_index\S+) to (\S+)", caught.value.hint)
    (sealed / pair[0]).rename(sealed / pair[1])
    assert artefacts.load(sealed, "tokens") == card


def test_shards_of_version_1_are_refused(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", {"train": [2]})
    card = json.loads((folder / CARD_NAME).read_text())
    (folder / CARD_NAME).write_text(json.dumps(with_checksum({**card, "schema_version": 1})))
    with pytest.raises(UsageError, match="schema version 1 of shards; this vtok reads 2"):
        artefacts.load(folder)


def test_a_lost_card_is_rebuilt_the_same(sealed: Path) -> None:
    from vtok.parquet import recover_part

    plan, before = plan_of(), (sealed / CARD_NAME).read_bytes()
    (sealed / CARD_NAME).unlink()
    (sealed / INDEX_NAME).unlink()
    assert artefacts.begin(sealed, plan) is None
    parts = [recover_part(sealed / name, plan) for name in plan.units]
    artefacts.seal(sealed, plan, parts, counts={"clips": 6}, facts={"classes": ["x"]})
    assert (sealed / CARD_NAME).read_bytes() == before


def test_fingerprints_see_config_inputs_and_content() -> None:
    assert plan_of().fingerprint == plan_of().fingerprint
    other_units = artefacts.make_plan("tokens", plan_of().config, INPUTS, UNITS[:1])
    other_inputs = artefacts.make_plan("tokens", plan_of().config, {"shards": "1" * 64}, UNITS)
    plans = [plan_of(), plan_of(batch_size=9), other_units, other_inputs]
    assert len({plan.fingerprint for plan in plans}) == 4


@pytest.mark.parametrize(
    "error",
    [
        VtokError("what", at="at", hint="hint"),
        UsageError("what", at="at", hint="hint"),
        IntegrityError("what"),
        ConfigError([("data.root", "is required", ""), ("x", "unknown key", "did you mean y?")], at="r.yaml"),
        VideoError("corrupt", "bad block", at="a.avi"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_survive_the_way_from_a_worker(error: VtokError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
    assert again.exit_code == error.exit_code
