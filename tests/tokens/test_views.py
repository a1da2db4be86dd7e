"""A view is the frames that it says, and its row says which they are."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.config.tokens import TokensConfig, ViewConfig
from schemas.errors import UsageError
from vtok.tokens.views import cut_view, view_shape, view_span
from vtok.video.transforms import resize_crop_uint8

VIDEO = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
META = {"num_frames": 10, "start_time": 2.0, "end_time": 3.85}  # 5 a second, of a source with 20


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (ViewConfig(), VIDEO),
        (ViewConfig(first_frame=3), VIDEO[3:]),
        (ViewConfig(first_frame=1, num_frames=3, frame_stride=2), VIDEO[[1, 3, 5]]),
        (ViewConfig(frame_stride=3), VIDEO[[0, 3, 6, 9]]),
        (ViewConfig(flip=True), VIDEO[:, :, ::-1]),
        (ViewConfig(resolution=8), VIDEO[:, 4:12, 4:12]),
        (ViewConfig(resolution=8, flip=True), VIDEO[:, 4:12, 4:12][:, :, ::-1]),
        (ViewConfig(resolution=24, fit="resize"), resize_crop_uint8(VIDEO, 24)),
        (ViewConfig(resolution=16, fit="resize"), VIDEO),
    ],
)
def test_frames(view: ViewConfig, expected: np.ndarray) -> None:
    cut = cut_view(VIDEO, view)
    assert np.array_equal(cut, expected) and cut.flags.c_contiguous
    assert cut.shape[:3] == view_shape(view, 10, 16)


def test_the_row_says_when_it_is() -> None:
    whole = view_span(ViewConfig(), META, 5.0)
    assert whole == {"num_frames": 10, "fps": 5.0, "start_time": 2.0, "end_time": 3.85}
    part = view_span(ViewConfig(first_frame=1, num_frames=3, frame_stride=2), META, 5.0)
    assert part["num_frames"] == 3 and part["fps"] == 2.5
    assert part["start_time"] == pytest.approx(2.2)
    assert part["end_time"] == pytest.approx(2.0 + 5 * 0.2 + 0.05), "the end of the last frame, the clip's sixth"


@pytest.mark.parametrize(
    "view",
    [
        ViewConfig(first_frame=10),
        ViewConfig(first_frame=3, num_frames=8),
        ViewConfig(num_frames=6, frame_stride=2),
        ViewConfig(resolution=24),
    ],
)
def test_what_the_clip_does_not_have_is_refused(view: ViewConfig) -> None:
    with pytest.raises(UsageError) as caught:
        view_shape(view, 10, 16)
    assert caught.value.at == "tokens.views: whole"


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="two views have the name 'whole'"):
        TokensConfig(views=(ViewConfig(), ViewConfig(flip=True)))
