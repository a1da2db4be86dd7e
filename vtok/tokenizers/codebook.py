"""Vector quantisation with a codebook learnt by exponential moving averages.

VQ-VAE (https://arxiv.org/abs/1711.00937, appendix A.1) as VideoGPT (https://arxiv.org/abs/2104.10157) trains it:
initialised from the first batch, unused codes restarted from the current one. TATS and MeBT use the same codebook.

Deviations from the originals, on purpose: the state dict holds an `initialized` flag (theirs does not, so resuming
re-initialised their codebooks); no one-hot matrix is built; random draws come from the caller; vectors for
initialisation and restart come from the batch of all ranks and perplexity counts it, so that a batch trains alike on
any number of ranks (with `parity`, as theirs: from rank 0's share, and the local share).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vtok.tokenizers.collective import from_first_rank, rows_of_all_ranks, sum_over_ranks, world_size
from vtok.tokenizers.layers import default_generator

# Distances held at once. A CPU is fastest while they stay near its caches (2^22 float32 values are 16 MiB), a GPU when
# there are enough of them to fill it. Fewer rows than `_ROWS` at once cost a matrix product more than it wins: it lays
# the codes out anew every time.
_MAX_DISTANCES = 1 << 22
_MAX_DISTANCES_GPU = 1 << 26
_ROWS = 1024
_GROUP = 128
_ALIGNED = 8
_EPS = 1e-7
_TILE_STD = 0.01


@runtime_checkable
class Draws(Protocol):
    """Where the random numbers of initialisation and restart come from."""

    def permutation(self, n: int) -> Int[Tensor, " n"]:
        """A random permutation of 0..n-1."""
        ...

    def normal(self, rows: int, dim: int) -> Float[Tensor, "rows dim"]:
        """Independent standard normal values."""
        ...


class GeneratorDraws:
    """Draws from a `torch.Generator`, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def permutation(self, n: int) -> Int[Tensor, " n"]:
        return torch.randperm(n, generator=self._generator, device=self._generator.device)

    def normal(self, rows: int, dim: int) -> Float[Tensor, "rows dim"]:
        return torch.randn(rows, dim, generator=self._generator, device=self._generator.device)


class CodebookOutput(NamedTuple):
    """What quantising a batch gives.

    Attributes:
        embeddings_bcthw: the codes' vectors, with the gradient of the input (straight-through).
        codes_bthw: int64, 0..n_codes-1.
        commitment_loss: weight * mean((z - vector)^2), a scalar.
        perplexity: exp(entropy of the codes), a scalar in 1..n_codes; in training mode over the batch of all ranks.
    """

    embeddings_bcthw: Float[Tensor, "b c t h w"]
    codes_bthw: Int[Tensor, "b t h w"]
    commitment_loss: Float[Tensor, ""]
    perplexity: Float[Tensor, ""]


class Codebook(nn.Module):
    """`n_codes` vectors of `dim` channels, float32, held in buffers: gradients never reach them.

    Args:
        decay: decay of the moving averages.
        commitment_weight: factor of the commitment loss.
        random_restart: replace codes whose moving count falls below `restart_threshold` by vectors of the batch.
        parity: on several ranks, initialise and restart from rank 0's rows and report each rank's perplexity.
        generator: draws the vectors that are there before the first batch; None: a generator with seed 0.
    """

    embeddings: Tensor
    N: Tensor
    z_avg: Tensor
    initialized: Tensor

    def __init__(
        self,
        n_codes: int,
        dim: int,
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        random_restart: bool = True,
        restart_threshold: float = 1.0,
        parity: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.decay = decay
        self.commitment_weight = commitment_weight
        self.random_restart = random_restart
        self.restart_threshold = restart_threshold
        self.parity = parity
        embeddings = torch.empty(n_codes, dim)
        if not embeddings.is_meta:
            embeddings.copy_(GeneratorDraws(default_generator(generator)).normal(n_codes, dim))
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("N", torch.zeros(n_codes))
        self.register_buffer("z_avg", embeddings.clone())
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self._seen_initialized = False

    @property
    def n_codes(self) -> int:
        return self.embeddings.shape[0]

    def forward(self, z_bcthw: Float[Tensor, "b c t h w"], draws: Draws | None = None) -> CodebookOutput:
        """Quantise; in training mode also initialise (first call), update and restart the codebook.

        Args:
            z_bcthw: latents of any float dtype; distances and averages are taken in float32.
            draws: needed in training mode by the first call, and by every call with `random_restart`. On several
                ranks, rank 0's count.

        Raises:
            ValueError: random numbers are needed and `draws` is None, or the first batch is not shared out evenly.
        """
        with torch.autocast(z_bcthw.device.type, enabled=False):
            # Channels last from here on: nothing is copied where the encoder's latents lie so already.
            z_bthwc = z_bcthw.float().movedim(1, -1).contiguous()
            rows_bnc = z_bthwc.detach().flatten(1, 3)
            rows_nc = rows_bnc.flatten(0, 1)
            if self.training and not self._is_initialized():
                self._initialise(rows_nc, draws)
            codes_bn = self.nearest(rows_bnc)
            codes_bthw = codes_bn.unflatten(1, z_bcthw.shape[2:])
            chosen_bthwc = F.embedding(codes_bthw, self.embeddings)
            commitment_loss = self.commitment_weight * F.mse_loss(z_bthwc, chosen_bthwc)
            counts_k = torch.bincount(codes_bn.flatten(), minlength=self.n_codes).float()
            all_counts_k = sum_over_ranks(counts_k.clone()) if self.training else counts_k
            probabilities = counts_k / counts_k.sum() if self.parity else all_counts_k / all_counts_k.sum()
            perplexity = torch.exp(-(probabilities * (probabilities + 1e-10).log()).sum())
            if self.training:
                self._update(rows_nc, codes_bn.flatten(), all_counts_k, draws)
            straight_through = ((chosen_bthwc - z_bthwc.detach()) + z_bthwc).movedim(-1, 1)
        return CodebookOutput(straight_through, codes_bthw, commitment_loss, perplexity)

    @torch.no_grad()
    def nearest(self, z_bnc: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """The code of the nearest vector (the lowest, where several are equally near).

        Every clip of the batch is compared by itself, in parts whose bounds depend on n alone: its codes do not depend
        on its neighbours.
        """
        n, dim = z_bnc.shape[1:]
        most = _MAX_DISTANCES_GPU if z_bnc.is_cuda else _MAX_DISTANCES
        step = min(max(most // self.n_codes, min(_ROWS, most // _GROUP)), max(1, n))
        width = min(self.n_codes, max(1, most // step // _GROUP) * _GROUP)
        room_nk = z_bnc.new_empty(step * width)
        room_nc = z_bnc.new_zeros(step, -(-(dim + 1) // _ALIGNED) * _ALIGNED)
        room_nc[:, dim] = 1
        codes_bn = torch.empty(z_bnc.shape[:2], dtype=torch.int64, device=z_bnc.device)
        factors_kc = self._factors(room_nc.shape[1])
        for z_nc, codes_n in zip(z_bnc, codes_bn, strict=True):
            for part_nc, out_n in zip(z_nc.split(step), codes_n.split(step), strict=True):
                rows_nc = room_nc[: len(part_nc)]
                rows_nc[:, :dim] = part_nc
                found = []
                for codes_kc in factors_kc.split(width):
                    # In the same memory every time: fresh pages cost as much as the comparison.
                    distances_nk = room_nk[: len(rows_nc) * len(codes_kc)].view(len(rows_nc), -1)
                    torch.mm(rows_nc, codes_kc.T, out=distances_nk)
                    found.append(_least(distances_nk))
                out_n.copy_(_first_least(found, width))
        return codes_bn

    def _factors(self, width: int) -> Float[Tensor, "k c"]:
        """-2 e, |e|^2, and zeros up to `width`: the product of (z, 1, 0, ...) with it is |z - e|^2 less |z|^2."""
        dim = self.embeddings.shape[1]
        factors_kc = self.embeddings.new_zeros(self.n_codes, width)
        torch.mul(self.embeddings, -2, out=factors_kc[:, :dim])
        # Part by part, so that the squares stay in the cache.
        for part_kc, out_k in zip(self.embeddings.split(1024), factors_kc[:, dim].split(1024), strict=True):
            torch.sum(part_kc.square(), 1, out=out_k)
        return factors_kc

    def lookup(self, codes_bthw: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t h w"]:
        """The vectors of codes."""
        return F.embedding(codes_bthw, self.embeddings).movedim(-1, 1)

    def _is_initialized(self) -> bool:
        # Cached, so that the flag is read back from the device only until it is set.
        if not self._seen_initialized:
            self._seen_initialized = bool(self.initialized)
        return self._seen_initialized

    def _candidates(self, rows_nc: Tensor, draws: Draws | None) -> Tensor:
        """`n_codes` vectors, the same on every rank: a random choice of the batch's rows.

        If they are too few, the rows are repeated with noise. The batch is that of all ranks; with `parity`, rank 0's.
        """
        if draws is None:
            raise ValueError("the codebook needs random numbers: pass a generator in training mode")
        rows = rows_nc.shape[0] * (1 if self.parity else world_size())
        copies = math.ceil(self.n_codes / rows)
        noise = draws.normal(rows * copies, rows_nc.shape[1]) if copies > 1 else None
        order_k = draws.permutation(rows * copies)[: self.n_codes]
        index_k = from_first_rank(order_k.to(rows_nc.device))
        vectors_kc = rows_nc[index_k % rows] if self.parity else rows_of_all_ranks(rows_nc, index_k % rows)
        if noise is not None:
            vectors_kc = vectors_kc + noise[order_k].to(rows_nc) * (_TILE_STD / math.sqrt(rows_nc.shape[1]))
        return from_first_rank(vectors_kc) if self.parity or noise is not None else vectors_kc

    @torch.no_grad()
    def _initialise(self, rows_nc: Tensor, draws: Draws | None) -> None:
        rows = rows_nc.shape[0]
        everywhere = int(sum_over_ranks(torch.tensor([rows], device=rows_nc.device)))
        if everywhere != rows * world_size():
            raise ValueError(f"{everywhere} rows over {world_size()} ranks, of which {rows} here: shares must be equal")
        vectors_kc = self._candidates(rows_nc, draws)
        self.embeddings.copy_(vectors_kc)
        self.z_avg.copy_(vectors_kc)
        self.N.fill_(1)
        self.initialized.fill_(True)

    @torch.no_grad()
    def _update(self, rows_nc: Tensor, codes_n: Tensor, all_counts_k: Tensor, draws: Draws | None) -> None:
        sums_kc = sum_over_ranks(_sum_by_code(rows_nc, codes_n, self.n_codes))
        self.N.mul_(self.decay).add_(all_counts_k, alpha=1 - self.decay)
        self.z_avg.mul_(self.decay).add_(sums_kc, alpha=1 - self.decay)
        total = self.N.sum()
        smoothed_k = (self.N + _EPS) / (total + self.n_codes * _EPS) * total
        torch.div(self.z_avg, smoothed_k.unsqueeze(1), out=self.embeddings)
        if self.random_restart:
            # N and z_avg stay as they are: the vector serves the next assignment only, unless it is then used.
            unused_k1 = self.N.lt(self.restart_threshold).unsqueeze(1)
            torch.where(unused_k1, self._candidates(rows_nc, draws), self.embeddings, out=self.embeddings)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The originals do not store the flag; a codebook that was worth saving has been initialised.
        state_dict.setdefault(prefix + "initialized", torch.ones((), dtype=torch.bool))
        self._seen_initialized = False
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _least(values_nk: Float[Tensor, "n k"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """The least value of every row and its position, the first where several are least.

    On a CPU a minimum runs three times as fast as its position: so first the least of every group of columns, then the
    position in the group that has it.
    """
    rows, columns = values_nk.shape
    if values_nk.is_cuda or columns % _GROUP or columns <= _GROUP:
        least_n, index_n = values_nk.min(1)
        return least_n, index_n
    groups_ngk = values_nk.unflatten(1, (-1, _GROUP))
    group_n = groups_ngk.amin(2).argmin(1)
    least_n, inside_n = groups_ngk[torch.arange(rows), group_n].min(1)
    return least_n, group_n * _GROUP + inside_n


def _first_least(parts: list[tuple[Tensor, Tensor]], width: int) -> Int[Tensor, " n"]:
    """Positions of the least values, by those of parts that are `width` columns apart; the first where several are."""
    if len(parts) == 1:
        return parts[0][1]
    part_n = torch.stack([least_n for least_n, _ in parts], 1).argmin(1)
    index_np = torch.stack([index_n for _, index_n in parts], 1)
    return part_n * width + index_np.gather(1, part_n.unsqueeze(1)).squeeze(1)


def _sum_by_code(rows_nc: Tensor, codes_n: Tensor, n_codes: int) -> Float[Tensor, "k c"]:
    """Sum of the rows of each code, in the same order every time.

    index_add is sequential on a CPU but atomic on CUDA; accumulating index_put sorts on CUDA but is atomic on a CPU.
    """
    sums_kc = rows_nc.new_zeros(n_codes, rows_nc.shape[1])
    if rows_nc.is_cuda:
        return sums_kc.index_put_((codes_n,), rows_nc, accumulate=True)
    return sums_kc.index_add_(0, codes_n, rows_nc)
