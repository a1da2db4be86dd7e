from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluate import evaluate
from schemas.card import with_checksum
from schemas.errors import UsageError
from tests.tiny_run import CLASSES, NASTY, finish_run, make_run
from tests.tokens.stores import some_rows, store_of
from vtok import report_models, report_pictures
from vtok.evaluation import classifier
from vtok.report import SECTIONS, write_report
from vtok.report_charts import Series, line_chart, nice_ticks, usage_chart
from vtok.report_html import breakable, escape, prose, tag
from vtok.report_pictures import moving_picture
from vtok.report_run import read_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars "
    "--enable-logging=stderr"
)
VOID = {"meta", "img", "br", "wbr", "source"}


class _Page(HTMLParser):
    """Checks that elements nest, and collects headings, pictures and references."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.elements: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.elements.add(name)
        self.references += [found[key] or "" for key in ("src", "href", "srcset") if key in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        if name == "img":
            self.pictures.append(found)
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = make_run(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "TRAIN_STEPS", 2)
        evaluate(folder)
    finish_run(settings)
    write_report(folder)
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def _read(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def test_has_every_section_and_nests(run: Path) -> None:
    page = _Page(_read(run))
    assert page.headings == list(SECTIONS)
    assert len(page.ids) == len(set(page.ids))
    assert len(page.pictures) == 4 + 2 + 2  # strips, previews, samples by class
    assert all(picture["alt"] for picture in page.pictures)
    assert not {"script", "iframe", "link", "object"} & page.elements


def test_asks_for_nothing_outside(run: Path) -> None:
    text = _read(run)
    for reference in _Page(text).references:
        assert reference.startswith(("data:image/", "#"))
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "default-src &#x27;none&#x27;" in text
    assert {ref[1:] for ref in _Page(text).references if ref.startswith("#")} <= set(_Page(text).ids)


def test_escapes_names_and_paths(run: Path) -> None:
    text = _read(run)
    assert "<script" not in text and "<b>Roll" not in text and "<moov>" not in text and "<run>" not in text
    for name in (NASTY, "no <moov> atom", "tiny <run>"):
        assert escape(name) in text
    assert escape(CLASSES[1]) in text


def test_says_what_it_should(run: Path) -> None:
    text = _read(run)
    assert "Every stage is finished." in text
    assert "20 files found = 18 with clips + 2 rejected. Nothing is missing." in text
    assert "18 clips planned = 17 written + 1 rejected. Nothing is missing." in text
    assert "the file cannot be opened or is no video" in text
    assert "codes never used" in text
    assert "position-wise entropy" in text
    assert "vtok data ingest" in text and "n_codes: 16" in text
    assert "samples recognised as their class" in text
    for stage in ("clips", "shards", "tokenizer", "tokens", "prior", "samples", "metrics"):
        assert json.loads((run / stage / "_vtok.json").read_text())["inputs"]
    assert "not the one here now" not in text


def test_is_repeatable_and_small(run: Path) -> None:
    before = _read(run)
    write_report(run)
    assert _read(run) == before
    assert len(before) < 8_000_000


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (("clips",), ["Stages", "Data", "Rejects", "How to make it again"]),
        (("clips", "shards", "tokenizer"), ["Stages", "Data", "Rejects", "Tokenizer", "How to make it again"]),
    ],
)
def test_unfinished_run(tmp_path: Path, stages: tuple[str, ...], expected: list[str]) -> None:
    make_run(tmp_path / "run", stages)
    text = write_report(tmp_path / "run").read_text()
    assert _Page(text).headings == expected
    assert "This run is not finished" in text and "not started" in text


def test_unfinished_training_is_named(copy: Path) -> None:
    (copy / "tokenizer" / "_vtok.json").unlink()
    text = write_report(copy).read_text()
    assert "Training is unfinished (step 2 of 2)" in text
    assert "This run is not finished: tokenizer unfinished. Next: vtok train tokenizer." in text


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "remark"),
    [
        (lambda run: _flip(run / "shards" / "train-00000.tar"), "This cannot be shown: the file is not the one"),
        (lambda run: _cut(run / "shards" / "train-00000.tar"), "damaged: train-00000.tar has"),
        (lambda run: _flip(run / "metrics" / "confusion.json"), "This cannot be shown: confusion.json is not the one"),
        (lambda run: _flip(run / "samples" / "part-00000.parquet"), "This cannot be shown: the file is not the one"),
        (lambda run: _cut(sorted((run / "tokenizer" / "previews").iterdir())[0]), "the picture cannot be read"),
        (lambda run: (run / "prior" / "_vtok.json").write_text("{"), "damaged: the card is damaged"),
        (lambda run: _cut(run / "metrics" / "metrics.parquet"), "damaged: metrics.parquet has"),
        (lambda run: (run / "timings.json").write_text("[]"), "Every stage is finished."),
    ],
)
def test_damage_does_not_hide_the_rest(copy: Path, damage: Callable[[Path], object], remark: str) -> None:
    damage(copy)
    text = write_report(copy).read_text()
    assert remark in text
    assert "Token store" in _Page(text).headings and "Samples" in _Page(text).headings


def test_stale_stage_is_named(copy: Path) -> None:
    path = copy / "tokens" / "_vtok.json"
    card = json.loads(path.read_text())
    card["inputs"]["shards"] = "0" * 64
    path.write_text(json.dumps(with_checksum(card)))
    text = write_report(copy).read_text()
    assert "tokens were made from other shards than those that lie here" in text


def test_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError):
            write_report(path)


def test_html_helpers() -> None:
    assert tag("p", "a < b", tag("b", "&"), class_="x") == '<p class="x">a &lt; b<b>&amp;</b></p>'
    assert prose("run `a<b` now") == "run <code>a&lt;b</code> now"
    assert breakable("BallBounce_x") == "Ball<wbr>Bounce_<wbr>x"


def test_charts_scale() -> None:
    assert nice_ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    for low, high in ((16.2, 17.9), (0.0, 0.0), (5.0, 5.0), (-3.0, 2.0), (1e-7, 3e-7), (1.0, 1e9)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low and ticks[-1] >= high - 1e-12 and 2 <= len(ticks) <= 20
    spike = [(0.0, 1000.0)] + [(float(x), 1.0 + x / 100) for x in range(1, 100)]
    drawn = line_chart("t", "c", "dB", [Series("s", spike, 1), Series("none", [], 2)])
    heights = [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", drawn)]
    assert min(heights) >= 9 and max(heights) - min(heights) > 150  # the spike is cut off, the rest fills the chart
    assert "none" not in drawn
    assert line_chart("t", "c", "", [Series("s", [], 1)]) == ""
    assert usage_chart("t", "c", list(range(1000))).count('class="bar"') == 125
    assert usage_chart("t", "c", [0, 0]).count('class="bar"') == 2


def test_large_pictures_are_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 160, 160, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    whole = moving_picture(frames, 100, "noise")
    monkeypatch.setattr(report_pictures, "MAX_BYTES", len(whole) // 4)
    assert len(moving_picture(frames, 100, "noise")) < len(whole) // 2


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: `apt-get install chromium`")
@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(run: Path, tmp_path: Path, width: int, dark: bool) -> None:
    """No console message, every picture decodes, the page fits the window and follows the colour scheme."""
    shot = tmp_path / "report.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = _browse(run / "report.html", tmp_path, [f"--window-size={width},1600", f"--screenshot={shot}", *scheme])
    assert "CONSOLE" not in done.stderr
    with Image.open(shot) as image:
        assert image.width == width
        corner = image.convert("RGB").getpixel((2, 2))
        assert len(set(image.convert("L").resize((60, 160)).tobytes())) > 10
    assert corner == ((18, 22, 27) if dark else (246, 247, 249))

    probe = (
        "<script>addEventListener('load', () => { const bad = [...document.images].filter(i => !i.naturalWidth);"
        "document.body.setAttribute('data-bad', bad.length);"
        "document.body.setAttribute('data-images', document.images.length);"
        "document.body.setAttribute('data-wide', document.documentElement.scrollWidth - innerWidth); })</script>"
    )
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', probe, _read(run))
    (tmp_path / "probe.html").write_text(text, encoding="utf-8")
    dom = _browse(tmp_path / "probe.html", tmp_path, [f"--window-size={width},1600", "--dump-dom"]).stdout
    found = dict(re.findall(r'data-(bad|images|wide)="(-?\d+)"', dom))
    assert found["bad"] == "0" and found["images"] == "8" and int(found["wide"]) <= 0


def _browse(page: Path, tmp_path: Path, flags: list[str]) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=True)


def test_a_store_of_several_grids_is_told(tmp_path: Path) -> None:
    store_of(tmp_path / "tokens", some_rows(lambda number: (2, 2, 3) if number % 4 else (3, 1, 2)))
    shown = str(report_models.tokens(read_run(tmp_path)))
    assert "18 rows, grids of several sizes out of 64:" in shown
