"""Checkpoints of TATS (https://arxiv.org/abs/2204.03638) and of vqgan-gpt-video, which is TATS with other settings.

A VQGAN's holds discriminators and LPIPS besides; a GPT's holds a whole VQGAN, or two if it is conditioned on sound,
without their settings: what the shapes do not tell follows from the number of positions, or has to be given.
"""

from __future__ import annotations

import math

from schemas.config.prior import GptConfig
from schemas.config.tokenizer import VqganConfig
from schemas.errors import UsageError
from vtok.convert.models import (
    Models,
    Tensors,
    TokenizerModel,
    below,
    config_of,
    count,
    prior_model,
    shape_of,
    tokenizer_model,
    triple,
)
from vtok.convert.settings import Settings
from vtok.priors.build import Facts

_NO_SHAPE = "no weight's shape depends on it"
_PUT_TOGETHER = "the file was put together of parts that do not belong together"
_TEXT_TOKENS, _TEXT_VOCABULARY = 256, 49408
_VTOKENS_CODES = 16384


def vqgan(tensors: Tensors, settings: Settings) -> Models:
    """The tokenizer of `train_vqgan.py`."""
    settings.check(_shapes(tensors, settings.at))
    downsample = triple(settings.need("downsample", _NO_SHAPE), "downsample", settings.at)
    return Models({"tokenizer": embedded_vqgan(tensors, settings, downsample)})


def _shapes(tensors: Tensors, at: str) -> dict[str, int]:
    """What the weights say about the architecture, under the original's names."""
    width, channels = shape_of(tensors, "encoder.conv_first.conv.weight", "VQGAN of TATS", at)[:2]
    n_codes, dim = shape_of(tensors, "codebook.embeddings", "codebook", at)
    return {"n_hiddens": width, "image_channels": channels, "n_codes": n_codes, "embedding_dim": dim}


def levels_of(tensors: Tensors) -> int:
    """How often a VQGAN halves its largest axis."""
    return count(tensors, r"encoder\.conv_blocks\.(\d+)\.")


def embedded_vqgan(
    tensors: Tensors,
    settings: Settings,
    downsample: tuple[int, int, int],
    grid: tuple[int, int, int] | None = None,
) -> TokenizerModel:
    """A VQGAN by its tensors, and by settings that their shapes do not tell.

    Args:
        grid: of the clips that a prior around it was trained on; None: as the settings say.

    Raises:
        UsageError: the factors do not fit, or tensors do not.
    """
    shapes, levels = _shapes(tensors, settings.at), levels_of(tensors)
    if max(downsample) != 2**levels:
        raise UsageError(f"downsample {list(downsample)} does not fit {levels} strided convolutions", at=settings.at)
    threshold = settings.get("restart_thres")
    values = {
        **shapes,
        "downsample": downsample,
        "norm": "batch" if "encoder.final_block.0.running_mean" in tensors else "group",
        "padding": settings.assume("padding_type", "replicate"),
        "random_restart": not settings.get("no_random_restart"),
        "restart_threshold": 1.0 if threshold is None else threshold,
    }
    config = config_of(VqganConfig, values, settings.at)
    return tokenizer_model(config, tensors, settings.at, grid or _grid(config, settings))


def _grid(config: VqganConfig, settings: Settings) -> tuple[int, int, int] | None:
    frames, side = frames_of(settings), settings.get("resolution")
    if frames is None or not isinstance(side, int):
        return None
    try:
        return config.grid(frames, side, side)
    except ValueError:
        return None


def frames_of(settings: Settings) -> int | None:
    """Frames of a clip that the tokenizer sees, or None."""
    length, every = settings.count("sequence_length"), settings.count("sample_every_n_frames") or 1
    if length is None or settings.get("image_folder"):  # TATS's folders of images count sampled frames
        return length
    return length // every


def gpt(tensors: Tensors, settings: Settings) -> Models:
    """The prior of `train_transformer.py`, and the tokenizers in it.

    Raises:
        UsageError: settings are missing or contradict the weights, or tensors do not fit.
    """
    at = settings.at
    first, second = below(tensors, "first_stage_model."), below(tensors, "cond_stage_model.")
    own = {k: v for k, v in tensors.items() if not k.startswith(("first_stage_model.", "cond_stage_model."))}
    vocabulary, width = shape_of(own, "transformer.tok_emb.weight", "GPT of TATS", at)
    block = shape_of(own, "transformer.pos_emb", "GPT of TATS", at)[1]
    layers = count(own, r"transformer\.blocks\.(\d+)\.")
    n_codes = _shapes(first, at)["n_codes"] if first else _VTOKENS_CODES
    settings.check({"n_layer": layers, "n_embd": width, "block_size": block})
    if not first:
        settings.noted.append(f"no tokenizer is in it: {n_codes} of the {vocabulary} tokens are taken for codes")
    condition, before = _condition(vocabulary - n_codes, bool(second), settings)
    stride = settings.count("sample_every_n_latent_frames") or 1
    tokenizers: dict[str, TokenizerModel] = {}
    if first:
        factors, grid = _sizes(first, settings, block - before + 1, stride)
        tokenizers["tokenizer"] = embedded_vqgan(first, settings, factors, grid)
    else:
        grid = _vtokens_grid(settings, block)
    if second:
        sound = Settings({}, {"padding_type": settings.assume("padding_type", "replicate")}, at)
        factors = triple(settings.assume("stft_downsample", [4, 8, 8]), "stft_downsample", at)
        tokenizers["stft_tokenizer"] = embedded_vqgan(second, sound, factors)
        if (sounds := tokenizers["stft_tokenizer"].config.n_codes) != vocabulary - n_codes:
            what = f"{vocabulary} tokens are not {n_codes} codes of the video and {sounds} of the sound"
            raise UsageError(what, at=at, hint=_PUT_TOGETHER)
    unmasked = settings.count("n_unmasked") or 0
    if unmasked not in (0, grid[1] * grid[2]):
        raise UsageError(f"n_unmasked {unmasked} is not one latent frame of {grid[1]} x {grid[2]} codes", at=at)
    boxes = own.get("transformer.vtokens_pos_emb")
    values = {
        **condition,
        "n_layer": layers,
        "n_head": settings.need("n_head", _NO_SHAPE),
        "n_embd": width,
        "interpolation": "tats" if unmasked else "none",
        "latent_stride": stride,
        "boxes": boxes is not None,
        "box_grid": None if boxes is None else tuple(boxes.shape[1:4]),
        "parity": True,
    }
    config = config_of(GptConfig, values, at)
    needed = before - 1 + math.ceil(grid[0] / stride) * grid[1] * grid[2]
    if block > needed and not unmasked:
        own["transformer.pos_emb"] = own["transformer.pos_emb"][:, :needed].clone()
        settings.noted.append(f"positions: the first {needed} of {block}, as many as a clip has codes")
    classes = vocabulary - n_codes if config.condition == "label" else 0
    return Models(tokenizers, prior_model(config, own, Facts(n_codes, grid, classes), at))


def _condition(extra: int, sound: bool, settings: Settings) -> tuple[dict[str, object], int]:
    """What comes before the codes, for `GptConfig`, and how many tokens it is; `extra` are tokens besides the codes."""
    key = settings.get("cond_stage_key")
    if extra < 0:
        raise UsageError(f"the vocabulary is {-extra} tokens smaller than the codebook", at=settings.at)
    if extra == 0:
        if key in ("text", "stft"):
            raise UsageError(f"it says {key} comes first, but all tokens are codes of the video", at=settings.at)
        return {"condition": "none"}, 1
    if sound or key == "stft":
        length = settings.need("stft_tokens", "how many codes of sound come before a clip's")
        return {"condition": "audio", "condition_length": length, "condition_vocabulary": extra}, length
    if key == "text" or extra == _TEXT_VOCABULARY:
        return {"condition": "text", "condition_length": _TEXT_TOKENS, "condition_vocabulary": extra}, _TEXT_TOKENS
    if settings.get("unconditional"):
        what = f"it says that it is unconditional, but has {extra} tokens besides the codes of the tokenizer in it"
        raise UsageError(what, at=settings.at, hint=_PUT_TOGETHER)
    settings.check({"class_cond_dim": extra})
    return {"condition": "label"}, 1


def _sizes(
    tensors: Tensors, settings: Settings, codes: int, stride: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The embedded tokenizer's factors and the grid of a clip: the only ones with which a clip has `codes` codes.

    Frames are counted before or after `sample_every_n_frames`, which differs between TATS's datasets.

    Raises:
        UsageError: none fit, or several; or the size of a clip is not known.
    """
    length, side, given = settings.get("sequence_length"), settings.get("resolution"), settings.get("downsample")
    if not isinstance(length, int) or not isinstance(side, int):
        raise _unknown_grid(settings, codes)
    powers = [2**n for n in range(levels_of(tensors) + 1)]
    factors = [(time, space, space) for time in powers for space in powers if max(time, space) == powers[-1]]
    if given is not None:
        factors = [triple(given, "downsample", settings.at)]
    fitting = []
    for frames in sorted({length, frames_of(settings) or length}):
        for t, h, w in factors:
            grid = (frames // t, side // h, side // w)
            exact = frames % t == side % h == side % w == 0
            if exact and math.ceil(grid[0] / stride) * grid[1] * grid[2] <= codes:
                fitting.append(((t, h, w), grid))
    largest = max((math.ceil(grid[0] / stride) * grid[1] * grid[2] for _, grid in fitting), default=0)
    if given is None and largest != codes:
        fitting = []
    fitting = [found for found in fitting if math.ceil(found[1][0] / stride) * found[1][1] * found[1][2] == largest]
    if len(fitting) != 1:
        several = " or ".join(str(list(found)) for found, _ in fitting)
        raise UsageError(
            f"the embedded tokenizer's `downsample` is not in the checkpoint, and {several or 'nothing'} would fit "
            f"(clips of {length} frames of {side} px, {codes} codes)",
            at=settings.at,
            hint="give it with --set downsample=[4,8,8]; sequence_length and resolution can be set, too",
        )
    return fitting[0]


def _unknown_grid(settings: Settings, block: int) -> UsageError:
    return UsageError(
        f"the size of a clip is not in the checkpoint, only that it has up to {block} codes",
        at=settings.at,
        hint="give --set sequence_length=16 --set resolution=128 (of the clips that it was trained on)",
    )


def _vtokens_grid(settings: Settings, block: int) -> tuple[int, int, int]:
    """A prior that was trained on stored codes: its flags count codes."""
    t, side = settings.get("sequence_length"), settings.get("spatial_length") or settings.get("resolution")
    if not isinstance(t, int) or not isinstance(side, int):
        raise _unknown_grid(settings, block)
    return t, side, side
