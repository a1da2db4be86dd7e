"""The cache is the user's own: what others made or may write to is not believed, and honest users do not meet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tokens.making import make_store
from vtok.shards import verified
from vtok.tokens.loader import TokenLoader
from vtok.tokens.store import TokenStore
from vtok.user_cache import temporary_folder, user_cache

ANN, BEN = 54321, 54322
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for several users")


def as_user(number: int, work: Callable[[], object]) -> str:
    """What a function gives in a process of another user, as text."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(number)
            os.setuid(number)
            os.write(there, str(work()).encode())
        except BaseException as error:  # nothing of pytest may go on in this process
            os.write(there, repr(error).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


def used(name: str = "tokens") -> Path:
    """The cache's folder, after something was written there."""
    folder = user_cache(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "file").write_text("mine")
    return folder


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place that every user reaches, with a folder for temporary files in it."""
    with tempfile.TemporaryDirectory(prefix="vt-cache-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
        monkeypatch.setenv("VTOK_CACHE", str(folder / "cache"))
        yield folder  # type: ignore[misc]


@as_root
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o755, 0o700])
def test_two_users_of_one_folder_do_not_meet(shared: Path, mode: int) -> None:
    """Whether it is open to all, or belongs to the first of them."""
    (shared / "cache").mkdir()
    (shared / "cache").chmod(mode)
    os.chown(shared / "cache", ANN, ANN)
    ann, ben = as_user(ANN, used), as_user(BEN, used)
    assert ann != ben
    for number, place in ((ANN, Path(ann)), (BEN, Path(ben))):
        assert (place / "file").read_text() == "mine" and place.is_relative_to(shared)
        assert place.stat().st_uid == number and not place.stat().st_mode & 0o022


@as_root
def test_a_folder_that_somebody_else_has_put_there_is_not_used(shared: Path) -> None:
    (shared / "cache" / f"uid-{BEN}" / "tokens").mkdir(parents=True)
    (shared / "cache").chmod(0o777)
    trap = shared / "tmp" / f"vtok-{BEN}"
    trap.symlink_to(shared / "cache" / f"uid-{BEN}")
    for path in (shared / "cache" / f"uid-{BEN}", trap):
        os.chown(path, ANN, ANN, follow_symlinks=False)
    place = Path(as_user(BEN, used))
    assert (place / "file").exists() and place.stat().st_uid == BEN
    assert place.parent.parent == shared / "tmp" and place.parent != trap


def test_a_cache_that_cannot_be_made_is_among_the_temporary_files(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "file").write_text("")
    for place in (shared / "file", shared / "file" / "below"):
        monkeypatch.setenv("VTOK_CACHE", str(place))
        assert user_cache("verified") == temporary_folder() / "verified"
    assert temporary_folder().parent == shared / "tmp"
    assert temporary_folder().stat().st_mode & 0o777 == 0o700


def spoil(path: Path, how: str) -> None:
    """Makes a file one that the user cannot vouch for."""
    if how == "open":
        path.chmod(0o666)
    else:
        os.chown(path, ANN, ANN)


SPOILT = pytest.mark.parametrize("how", ["open", pytest.param("of another", marks=as_root)])


@SPOILT
def test_a_stamp_of_somebody_else_is_not_believed(shared: Path, tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(1024))
    digest = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"  # sha256sum of 1024 zeros
    with path.open("rb") as stream:
        verified._prove(stream, path, digest, "node")
        stamp = next(verified.cache_folder().glob("*.json"))
        assert verified._read_stamp(stamp, stream, digest) is not None
        spoil(stamp, how)
        assert verified._read_stamp(stamp, stream, digest) is None
        verified._prove(stream, path, digest, "node")
    assert stamp.stat().st_uid == os.geteuid() and stamp.stat().st_mode & 0o777 == 0o600


@SPOILT
def test_a_flat_file_of_somebody_else_is_made_again(shared: Path, tmp_path: Path, how: str) -> None:
    folder = make_store(tmp_path / "tokens", {"train": [5, 3]})

    def epoch() -> TokenLoader:
        loader = TokenLoader(TokenStore(folder), "train", 4, seed=0)
        assert sum(len(batch.labels_b) for batch in loader) == 8
        return loader

    assert epoch().source.cache.built == 2
    files = sorted(user_cache("tokens").rglob("*.flat"))
    spoil(files[0], how)
    cache = epoch().source.cache
    assert (cache.built, cache.repaired) == (1, 1)
    assert all(path.stat().st_uid == os.geteuid() and path.stat().st_mode & 0o777 == 0o600 for path in files)
