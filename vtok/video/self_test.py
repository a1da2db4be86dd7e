"""Does decoding work on this machine at all? Found out on a clip whose frames are known, before any file is blamed.

What breaks decoding as a whole (another PyAV, a broken library, a fault of ours) would reject every video of a dataset,
each with a reason that sounds like the video's own.
"""

from __future__ import annotations

import base64
import os
import zlib
from pathlib import Path

import numpy as np

from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips
from vtok.video.probe import probe

_CLIP = zlib.decompress(
    base64.b85decode(
        b"c-muNU{FXasVvAW&d+6FU}6B#Kx~v)mTZ_?U}DI?z`&7Kl$r{pqjFOcOMtXMYDbIJoBBhc^%t2Y%H`I71d0hd&QdeI9r{PSZk_!Py<gV"
        b"#e?STyXSu-zb=vv=LlmaL#q<S!g9MocbMy1dfRZ`6Wf>_9D1i9|kXXRL$N)kJz=)~}o$tVa7cc=)LP=3#Hjo`tk`1<#8H;HPFmw`QuK*"
        b"M?FsP)aloSJLnbe%(5+of95PBJJ<fddM0vQUqDd>JT0tG%p=n*hSHzOsd2qsgOnUadEG7QMi_eji3$w>vNVQkLL%u53@M9Ol(h9WytB?"
        b"TfUlTwtLhU6%o(xMy%2%FKlxFjhD$lhICQk;UMW;G~T;0Owkrv(^1fV2lp1&<F<y+TfAQiYM33ATuk_zy}GhCo%$j42FU{~t1lrUU6UT"
        b"fQ+VfT9FQusJ?*xx&c6n(>}7U+3?SA7G0L5{nC<P5@z%q>>_N_zJMVj4mz#hds=xEZ}Gdss(xpSsa9AfMUsLVk}Tv1t?dA<YbVz2oQ@R"
        b")5Rsp`AGT=fY`P)r34hOrn#wL8Uz%P;}96{MTrFkImqF`kqJyF0ObIPcK"
    )
)
"""An MP4 of four H.264 frames, 16 x 16 pixels, 25 a second: a key frame and three that are predicted from it."""

_LEVELS = (0, 70, 140, 210)
"""Of all pixels of each frame: limited-range lumas 16, 76, 136 and 196."""

_TOLERANCE = 2


def check_decoding() -> None:
    """Probes and decodes the built-in clip; some milliseconds.

    Raises:
        Exception: whatever goes wrong, a wrong frame included.
    """
    if not Path("/proc/self/fd").is_dir():  # another system than Linux: no file without a place on the disk
        return
    file = os.memfd_create("vtok-self-test")
    try:
        os.write(file, _CLIP)
        path = f"/proc/self/fd/{file}"
        facts = probe(path)
        span = ClipSpan(0, 1, 0.0, len(_LEVELS) / 25, None, len(_LEVELS))
        ((_, clip),) = decode_clips(path, facts, [span], resolution=16, policy="reference")
        if isinstance(clip, Exception):
            raise clip
        wanted = np.array(_LEVELS)[:, None, None, None]
        if clip.shape != (len(_LEVELS), 16, 16, 3) or np.abs(clip - wanted).max() > _TOLERANCE:
            raise RuntimeError(f"the frames of the built-in clip are {clip[:, 8, 8].tolist()}, not {list(_LEVELS)}")
    finally:
        os.close(file)
