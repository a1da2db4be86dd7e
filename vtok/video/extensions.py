"""Names of files that are tried as videos, wherever they lie: in a folder or in a tar."""

from __future__ import annotations

_ENDINGS = """
    .264 .265 .3g2 .3gp .asf .avc .avi .divx .dv .evo .f4v .flv .gif .h264 .h265 .h26l .hevc .insv .ismv .ivf .lrv
    .m1v .m2p .m2t .m2ts .m2v .m4s .m4v .mj2 .mk3d .mkv .mov .mp4 .mp4v .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu .ogg
    .ogm .ogv .ogx .qt .rm .rmvb .tod .tp .trp .ts .vob .vro .webm .wmv .xvid .y4m
"""
EXTENSIONS = tuple(_ENDINGS.split())
"""Endings, in lower case, of the files that `vtok.video.ffmpeg.DEMUXERS` may open. What a file holds decides; its name
only says that it is worth a look."""
