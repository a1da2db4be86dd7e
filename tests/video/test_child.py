from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from schemas.errors import VtokError
from tests.video.making import numbers, write_video
from vtok.video import child as child_module
from vtok.video import child_process, child_server
from vtok.video.child import DecodeChild
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips
from vtok.video.errors import VideoError
from vtok.video.probe import probe

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a b.mp4", 40, size=(96, 96))


@pytest.fixture
def child() -> Iterator[DecodeChild]:
    with DecodeChild() as child:
        yield child


@pytest.fixture
def bad() -> Iterator[DecodeChild]:
    with DecodeChild(max_memory_mb=1024, module="tests.video.misbehaving") as child:
        yield child


def _rows(path: Path, starts: list[int], **changes: Any) -> list[dict[str, Any]]:
    common = {"source_bytes": path.stat().st_size, **probe(path)._asdict(), "bbox": None, **changes}
    return [{**common, **ClipSpan(s, 1, s / 25, (s + 8) / 25, None, 8)._asdict()} for s in starts]


def _run(child: DecodeChild, path: Path | str, rows: list[dict[str, Any]], **options: Any) -> Any:
    settings = {"resolution": 96, "policy": "reference", "decoder": "pyav", "max_pixels": 1 << 26, "cpu_seconds": 30.0}
    return child.decode(str(path), rows, **{**settings, **options})


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until_dead(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while _alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not _alive(pid)


def _pid(child: DecodeChild) -> int:
    assert child._process is not None
    return child._process.pid


def test_probe_equals_the_one_in_process(child: DecodeChild, video: Path) -> None:
    assert child.probe(str(video), cpu_seconds=20.0) == (probe(video), video.stat().st_size)
    with pytest.raises(VideoError) as caught:
        child.probe(str(video.parent / "gone.mp4"), cpu_seconds=20.0)
    assert caught.value.reason == "vanished"


@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_decode_equals_the_one_in_process(decoder: Any, child: DecodeChild, video: Path) -> None:
    rows = _rows(video, [0, 16, 24])
    run = _run(child, video, rows, decoder=decoder, resolution=48)
    spans = [ClipSpan(*(row[name] for name in ClipSpan._fields)) for row in rows]
    wanted = dict(decode_clips(video, probe(video), spans, resolution=48, decoder=decoder))
    count = 0
    for index, clip in run:
        assert run.sha256 == hashlib.sha256(video.read_bytes()).hexdigest()  # known from the first clip on
        np.testing.assert_array_equal(clip.frames_thwc, wanted[index])
        count += 1
    assert count == 3


def test_one_process_serves_many_requests(child: DecodeChild, video: Path) -> None:
    child.probe(str(video), cpu_seconds=20.0)
    first = _pid(child)
    for _ in range(3):
        assert [numbers(clip.frames_thwc) for _, clip in _run(child, video, _rows(video, [8]))] == [list(range(8, 16))]
    assert _pid(child) == first


def test_errors_of_single_clips(child: DecodeChild, video: Path) -> None:
    results = dict(_run(child, video, _rows(video, [0, 36])))
    assert numbers(results[0].frames_thwc) == list(range(8))
    assert results[1].reason == "missing_frames"


def test_another_file_than_at_ingest(child: DecodeChild, video: Path) -> None:
    rows = _rows(video, [0, 8])
    assert {e.reason for _, e in _run(child, video, [{**row, "source_bytes": 17} for row in rows])} == {"changed"}
    video.unlink()
    results = list(_run(child, video, rows))
    assert [(i, e.reason) for i, e in results] == [(0, "vanished"), (1, "vanished")]


def test_the_box_of_the_manifest_is_used(child: DecodeChild, video: Path) -> None:
    (_, whole), *_ = _run(child, video, _rows(video, [0]))
    (_, boxed), *_ = _run(child, video, _rows(video, [0], bbox=[0, 0, 48, 48]), resolution=48)
    np.testing.assert_array_equal(boxed.frames_thwc, whole.frames_thwc[:, :48, :48])


@pytest.mark.parametrize(
    ("what", "reason"), [("spin", "timeout"), ("eat", "memory"), ("segfault", "crashed"), ("exit", "crashed")]
)
def test_misbehaviour(what: str, reason: str, bad: DecodeChild, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "_WALL_EXTRA", 1e6)  # so that it is not the guard by wall clock that ends them
    with pytest.raises(VideoError) as caught:
        bad.probe(f"/{what}", cpu_seconds=1.0)
    assert caught.value.reason == reason
    assert "no answer within" not in caught.value.detail, "the guard by wall clock is for what sleeps"
    small = {"frames": 8, "height": 8, "width": 8}
    rows = [{**row, **small} for row in _rows(video, [0, 8])]
    results = list(_run(bad, f"/{what}", rows, cpu_seconds=1.0))
    assert [(i, e.reason) for i, e in results] == [(0, reason), (1, reason)]
    assert bad.probe(str(video), cpu_seconds=20.0).facts.frames == 40  # the next file is none the worse


def test_a_child_that_hung_up_before_it_ended_was_not_killed(bad: DecodeChild) -> None:
    with pytest.raises(VideoError) as caught:
        bad.probe("/hang-up", cpu_seconds=1.0)
    assert (caught.value.reason, caught.value.detail) == ("crashed", "the decoding process died: exit code 3")


def test_an_exception_of_ours_is_internal(bad: DecodeChild, video: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With its traceback in the log, one line of it in the reject; the process goes on."""
    with pytest.raises(VideoError) as caught:
        bad.probe("/raise", cpu_seconds=1.0)
    pid = _pid(bad)
    assert caught.value.reason == "internal"
    assert caught.value.detail.startswith("AttributeError: 'DataStream' object has no attribute 'width' (vtok/video/ch")
    said = capfd.readouterr().err
    assert "Traceback (most recent call last)" in said and "misbehaving.py" in said
    assert [(i, e.reason) for i, e in _run(bad, "/raise", _rows(video, [0, 8]))] == [(0, "internal"), (1, "internal")]
    assert bad.probe(str(video), cpu_seconds=20.0).facts.frames == 40
    assert _pid(bad) == pid


def test_what_a_child_complains_of_is_kept_up_to_a_bound(bad: DecodeChild, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(VideoError) as caught:
        bad.probe("/complain", cpu_seconds=1.0)
    assert caught.value.detail == "the decoding process died: exit code 3"
    assert capfd.readouterr().err.endswith("the last word\n")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "TypeError: open() got an unexpected keyword argument 'metadata_errors'"),
        ("lies", "the frames of the built-in clip are"),
        ("crashes", "Segmentation fault"),
    ],
)
def test_a_machine_that_cannot_decode_blames_no_video(
    how: str, said: str, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTOK_TEST_BROKEN", how)
    with DecodeChild(module="tests.video.broken_decoding") as child:
        for _ in range(2):
            with pytest.raises(VtokError) as caught:
                child.probe(str(video), cpu_seconds=20.0)
            assert not isinstance(caught.value, VideoError)
            assert said in caught.value.what and "self_test.py" in caught.value.what + "self_test.py" * (
                how == "crashes"
            )
            assert caught.value.hint


def test_a_sleeping_decoder_meets_the_wall_clock(bad: DecodeChild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "_WALL_FACTOR", 1.0)
    monkeypatch.setattr(child_module, "_WALL_EXTRA", 1.0)
    with pytest.raises(VideoError) as caught:
        bad.probe("/sleep", cpu_seconds=1.0)
    assert caught.value.reason == "timeout"


def test_a_slow_reader_is_no_slow_decoder(child: DecodeChild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only waiting for the child counts, not what is done with the clips between two of them."""
    path = write_video(tmp_path / "long.mp4", 200, size=(96, 96))
    child.probe(str(path), cpu_seconds=20.0)
    monkeypatch.setattr(child_module, "_WALL_FACTOR", 0.0)
    monkeypatch.setattr(child_module, "_WALL_EXTRA", 60.0)
    slept = 0.0
    monkeypatch.setattr(child_process, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + slept))
    for _, clip in _run(child, path, _rows(path, list(range(0, 192, 16)))):
        assert not isinstance(clip, VideoError)
        slept += 10.0
    assert slept == 120.0


def test_an_abandoned_decode_leaves_nothing_behind(child: DecodeChild, video: Path) -> None:
    for _ in _run(child, video, _rows(video, [0, 8, 16])):
        break
    assert [numbers(clip.frames_thwc)[0] for _, clip in _run(child, video, _rows(video, [24]))] == [24]
    assert child.probe(str(video), cpu_seconds=20.0).facts.frames == 40


def test_what_libraries_print_does_not_mix_with_frames(bad: DecodeChild, video: Path) -> None:
    assert bad.probe(f"{video}/print", cpu_seconds=20.0).facts.frames == 40


def test_a_child_that_died_idle_is_replaced(child: DecodeChild, video: Path) -> None:
    for _ in range(5):  # at once: a process with threads is not gone the moment that it is killed
        child.probe(str(video), cpu_seconds=20.0)
        os.kill(_pid(child), signal.SIGKILL)
        assert child.probe(str(video), cpu_seconds=20.0).facts.frames == 40


def test_no_ffmpeg_is_the_users_error_and_no_reject(
    child: DecodeChild, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(VtokError, match="IMAGEIO_FFMPEG_EXE") as caught:
        list(_run(child, video, _rows(video, [0]), decoder="ffmpeg"))
    assert not isinstance(caught.value, VideoError)
    assert caught.value.hint


def test_close_ends_the_child(video: Path) -> None:
    child = DecodeChild()
    child.probe(str(video), cpu_seconds=20.0)
    pid = _pid(child)
    child.close()
    assert not _alive(pid)
    child.close()


@pytest.mark.parametrize("what", ["", "sleep", "spin"])
def test_no_orphans(what: str, video: Path) -> None:
    """The child dies with its parent, whatever it is doing."""
    code = (
        "import sys, threading, time\n"
        "from vtok.video.child import DecodeChild\n"
        "c = DecodeChild(module='tests.video.misbehaving')\n"
        f"c.probe({str(video)!r}, cpu_seconds=20.0)\n"
        "print(c._process.pid, flush=True)\n"
        f"what = {what!r}\n"
        "if what: c.probe('/' + what, cpu_seconds=30.0)\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        time.sleep(0.5)
        parent.kill()
        parent.wait()
        assert _wait_until_dead(pid, 60)
    finally:
        parent.stdout.close()
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_the_child_is_light() -> None:
    heavy = ["torch", "ray", "pyarrow", "pydantic", "webdataset", "deepspeed"]
    code = f"import sys, vtok.video.child, vtok.video.child_server; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT)
    assert done.stdout.strip() == "[]"


def test_a_file_is_hashed_once_for_all_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"one")
    digest = child_server.hash_file(file)
    assert digest == hashlib.sha256(b"one").hexdigest()
    reads = []
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *args, **options: reads.append(self) or opened(self, *args, **options)
    )
    assert child_server.hash_file(file) == digest
    assert reads == []
    file.write_bytes(b"other")
    assert child_server.hash_file(file) == hashlib.sha256(b"other").hexdigest()
    file.unlink()
    with pytest.raises(VideoError, match="no such file"):
        child_server.hash_file(file)
