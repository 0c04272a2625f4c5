"""Sequences of amino acids: three encoders that never see padding, and a decoder.

A sequence is a row of tokens, 1 and up, then 0 to the end of the table. Whatever stands after a sequence's end has no
part in what is said of it, so that a table may be cut to its longest sequence.

The transformer (Vaswani et al. 2017, arXiv:1706.03762) is that of mvTCR: post-norm layers with ReLU. Its decoder is
taught by the true sequence: each residue is predicted from those before it and from `hidden`, which is widened to one
vector per position and attended to; the first residue is given, not predicted.

Layers work on residues alone, (places, width); a table of sequences is made where they attend. So many attentions of so
few positions take torch's fused kernel twice the time of the products that stand here, and inner layers, the widest
values of the network, are passed over in chunks that the processor's cache holds.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .layers import ConditionalLinear, Dropout
from .noise import Noise


def position_codes(length: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of the position, (length, width)."""
    position = torch.arange(length, device=like.device, dtype=like.dtype)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=like.dtype) * (-math.log(1e4) / width))
    codes = torch.stack([torch.sin(position * rates), torch.cos(position * rates)], dim=-1)
    return codes.flatten(1)[:, :width]


class TokenEmbedding(nn.Module):
    """One learned vector per token; that of padding is zero."""

    def __init__(self, n_tokens: int, width: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(n_tokens, width))

    def initialize(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.vectors, generator=generator)
        with torch.no_grad():
            self.vectors[0] = 0

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.vectors, padding_idx=0)


class CoarseDropout(Dropout):
    """Dropout at a rate in whole 256ths: there are so many values that eight random bits must do for each."""

    @property
    def kept(self) -> float:
        """Share of the values."""
        is_off = self.frozen or not self.training
        return 1.0 if is_off else max(1, round(256 * (1 - self.rate))) / 256

    def kept_like(self, values: Tensor, noise: Noise) -> Tensor:
        return noise.kept_like(values, self.kept, n_bits=8)

    def forward(self, values: Tensor, noise: Noise | None) -> Tensor:
        return values if self.kept == 1 else values * self.kept_like(values, noise).div_(self.kept)

    def added(self, to: Tensor, values: Tensor, noise: Noise | None) -> Tensor:
        """`to`, plus what is left of `values`."""
        if self.kept == 1:
            return to + values
        return torch.addcmul(to, values, self.kept_like(values, noise), value=1 / self.kept)


class Places:
    """The places of a table, (sequences, positions), at which there is something; layers see these and no padding."""

    def __init__(self, is_there: Tensor):
        self.shape = is_there.shape
        self.index = is_there.flatten().nonzero().squeeze(1)
        self.rows = torch.zeros(self.shape, dtype=torch.long, device=is_there.device)  # counted from 1; 0 = nothing
        self.rows.view(-1)[self.index] = torch.arange(1, len(self.index) + 1, device=is_there.device)

    @property
    def positions(self) -> Tensor:
        """Of each place in its sequence, (places,)."""
        return self.index % self.shape[1]

    def packed(self, table: Tensor) -> Tensor:
        """(sequences, positions) to (places,)."""
        return table.flatten().index_select(0, self.index)

    def padded(self, values: Tensor, n_parts: int = 1) -> Tensor:
        """(places, n_parts · width) to (n_parts, sequences, positions, width), zero at padding."""
        return _Padded.apply(values, self, n_parts)

    def unpadded(self, table: Tensor) -> Tensor:
        """The inverse of `padded`."""
        return _Unpadded.apply(table, self)

    def _table_of(self, values: Tensor, n_parts: int) -> Tensor:
        parts = torch.arange(n_parts, device=values.device)[:, None, None]
        width = values.shape[1] // n_parts
        rows = torch.cat([values.new_zeros(1, values.shape[1]), values]).view(-1, width)
        return rows.index_select(0, (self.rows * n_parts + parts).flatten()).view(n_parts, *self.shape, width)

    def _values_of(self, table: Tensor) -> Tensor:
        parts = torch.arange(len(table), device=table.device) * self.rows.numel()
        found = table.flatten(0, -2).index_select(0, (self.index[:, None] + parts).flatten())
        return found.view(len(self.index), len(table) * table.shape[-1])


class _Padded(torch.autograd.Function):
    """Both ways read each entry once; torch's own gradient of a selection would add to each."""

    @staticmethod
    def forward(ctx, values: Tensor, places: Places, n_parts: int) -> Tensor:
        ctx.places = places
        return places._table_of(values, n_parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.places._values_of(gradient), None, None


class _Unpadded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, places: Places) -> Tensor:
        ctx.places, ctx.n_parts = places, len(table)
        return places._values_of(table)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.places._table_of(gradient, ctx.n_parts), None


class Readout(nn.Module):
    """A linear layer over all positions side by side; those that a shorter table lacks count as zero."""

    def __init__(self, longest: int, width: int, n_out: int):
        super().__init__()
        self.linear = ConditionalLinear(longest * width, n_out)

    def forward(self, table: Tensor) -> Tensor:
        """Of (sequences, positions, width), zero at padding."""
        features = table.flatten(1)
        return F.linear(features, self.linear.weight[:, : features.shape[1]], self.linear.bias)


class Attention(nn.Module):
    """Attention of `n_heads` heads."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.query = ConditionalLinear(width, width)
        self.key_value = ConditionalLinear(width, 2 * width)
        self.out = ConditionalLinear(width, width)

    def to_itself(self, values: Tensor, places: Places, barred: Tensor) -> Tensor:
        """What each of `values`, (places, width), finds in its sequence, save where it is `barred` from looking,
        (sequences or 1, positions looked at, positions or 1)."""
        weight, bias = (
            torch.cat([getattr(self.query, name), getattr(self.key_value, name)]) for name in ("weight", "bias")
        )
        heads = places.padded(F.linear(values, weight, bias), 3 * self.n_heads)
        return self.out(places.unpadded(_Attention.apply(*heads.chunk(3), barred)))

    def to_memory(self, values: Tensor, places: Places, memory: Tensor) -> Tensor:
        """What each of `values`, (places, width), finds in its sequence's `memory`, (sequences, positions, width)."""
        heads = places.padded(self.query(values), self.n_heads)
        key, value = self.key_value(memory).unflatten(-1, (2 * self.n_heads, -1)).movedim(2, 0).chunk(2)
        return self.out(places.unpadded(_Attention.apply(heads, key, value, None)))


class _Attention(torch.autograd.Function):
    """softmax(query · key / √width) · value, each (heads, sequences, positions, width)."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, barred: Tensor | None) -> Tensor:
        n_heads, scale = len(query), 1 / math.sqrt(query.shape[-1])
        query, key, value = (part.flatten(0, 1) for part in (query, key, value))
        scores = torch.bmm(key, query.transpose(1, 2)).mul_(scale)  # (…, positions looked at, positions)
        if barred is not None:
            scores.unflatten(0, (n_heads, -1)).masked_fill_(barred, -torch.inf)
        shares = torch.softmax(scores, 1)
        ctx.save_for_backward(query, key, value, shares)
        ctx.n_heads, ctx.scale = n_heads, scale
        return torch.bmm(shares.transpose(1, 2), value).unflatten(0, (n_heads, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, shares = ctx.saved_tensors
        gradient = gradient.flatten(0, 1)
        by_shares = torch.bmm(value, gradient.transpose(1, 2)).mul_(shares)
        by_scores = by_shares.sub_(shares * by_shares.sum(1, keepdim=True)).mul_(ctx.scale)
        found = torch.bmm(by_scores.transpose(1, 2), key), torch.bmm(by_scores, query), torch.bmm(shares, gradient)
        return *(part.unflatten(0, (ctx.n_heads, -1)) for part in found), None


class FeedForward(nn.Module):
    """Of each position alone: widened, ReLU, dropout, narrowed."""

    def __init__(self, width: int, expansion: int, dropout_rate: float):
        super().__init__()
        self.wide = ConditionalLinear(width, expansion * width)
        self.narrow = ConditionalLinear(expansion * width, width)
        self.dropout = CoarseDropout(dropout_rate)

    def forward(self, values: Tensor, noise: Noise | None) -> Tensor:
        layers = self.wide.weight, self.wide.bias, self.narrow.weight, self.narrow.bias
        return _FeedForward.apply(values, *layers, self.dropout, noise)


class _FeedForward(torch.autograd.Function):
    CHUNK = 1 << 18  # entries of the inner layer, 1 MB

    @staticmethod
    def forward(
        ctx, values, wide, wide_bias, narrow, narrow_bias, dropout: CoarseDropout, noise: Noise | None
    ) -> Tensor:
        inner, found = values.new_empty(len(values), len(wide)), torch.empty_like(values)
        narrow = narrow / dropout.kept
        for rows in _FeedForward._chunks(inner):
            torch.mm(values[rows], wide.T, out=inner[rows]).add_(wide_bias).relu_()
            if dropout.kept < 1:
                inner[rows].mul_(dropout.kept_like(inner[rows], noise))
            torch.addmm(narrow_bias, inner[rows], narrow.T, out=found[rows])
        ctx.save_for_backward(values, wide, narrow, inner)
        ctx.kept = dropout.kept
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, wide, narrow, inner = ctx.saved_tensors
        by_values, by_wide, by_narrow = torch.empty_like(values), torch.zeros_like(wide), torch.zeros_like(narrow)
        by_wide_bias = wide.new_zeros(len(wide))
        for rows in _FeedForward._chunks(inner):
            by_narrow.addmm_(gradient[rows].T, inner[rows])
            by_inner = torch.ops.aten.threshold_backward(gradient[rows] @ narrow, inner[rows], 0)
            by_wide.addmm_(by_inner.T, values[rows])
            by_wide_bias += by_inner.sum(0)
            torch.mm(by_inner, wide, out=by_values[rows])
        return by_values, by_wide, by_wide_bias, by_narrow.div_(ctx.kept), gradient.sum(0), None, None

    @staticmethod
    def _chunks(inner: Tensor) -> list[slice]:
        length = max(1, _FeedForward.CHUNK // inner.shape[1])
        return [slice(start, start + length) for start in range(0, len(inner), length)]


class EncoderLayer(nn.Module):
    def __init__(self, width: int, n_heads: int, expansion: int, dropout_rate: float):
        super().__init__()
        self.attention = Attention(width, n_heads)
        self.feed_forward = FeedForward(width, expansion, dropout_rate)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = CoarseDropout(dropout_rate)

    def forward(self, values: Tensor, places: Places, barred: Tensor, noise: Noise | None) -> Tensor:
        found = self.attention.to_itself(values, places, barred)
        values = self.norms[0](self.dropout.added(values, found, noise))
        return self.norms[1](self.dropout.added(values, self.feed_forward(values, noise), noise))


def embedded(embedding: TokenEmbedding, tokens: Tensor, places: Places) -> Tensor:
    """Each residue's vector and position, (places, width)."""
    values = embedding(places.packed(tokens))
    return values + position_codes(tokens.shape[1], values.shape[1], like=values)[places.positions]


class TransformerEncoder(nn.Module):
    """From tokens, (sequences, positions), to features, (sequences, n_out).

    Parameters
    ----------
    n_tokens, longest, n_out
        Number of tokens, padding included; most residues of a sequence; width of the output.
    width, n_layers
        Of the embedding and all layers, and their number.
    n_heads, expansion
        Heads of attention, and how many times wider the inner layer is.
    dropout_rate
        Of the embedding and after each part.
    """

    def __init__(
        self,
        n_tokens: int,
        longest: int,
        n_out: int,
        *,
        width: int,
        n_layers: int,
        n_heads: int,
        expansion: int,
        dropout_rate: float,
    ):
        super().__init__()
        self.embedding = TokenEmbedding(n_tokens, width)
        self.dropout = CoarseDropout(dropout_rate)
        self.layers = nn.ModuleList(EncoderLayer(width, n_heads, expansion, dropout_rate) for _ in range(n_layers))
        self.readout = Readout(longest, width, n_out)

    def forward(self, tokens: Tensor, noise: Noise | None) -> Tensor:
        is_residue = tokens > 0
        places = Places(is_residue)
        values = self.dropout(embedded(self.embedding, tokens, places), noise)
        for layer in self.layers:
            values = layer(values, places, ~is_residue[:, :, None], noise)
        return self.readout(places.padded(values)[0])


class ConvolutionalEncoder(nn.Module):
    """As `TransformerEncoder`, by convolutions over five neighbouring residues, each followed by ReLU."""

    SPAN = 5

    def __init__(
        self, n_tokens: int, longest: int, n_out: int, *, width: int, n_layers: int, dropout_rate: float, **_of_heads
    ):
        super().__init__()
        self.embedding = TokenEmbedding(n_tokens, width)
        self.layers = nn.ModuleList(ConditionalLinear(self.SPAN * width, width) for _ in range(n_layers))
        self.dropout = CoarseDropout(dropout_rate)
        self.readout = Readout(longest, width, n_out)

    def forward(self, tokens: Tensor, noise: Noise | None) -> Tensor:
        is_residue, margin = tokens > 0, self.SPAN // 2
        values = self.embedding(tokens)
        for layer in self.layers:
            windows = F.pad(values, (0, 0, margin, margin)).unfold(
                1, self.SPAN, 1
            )  # (sequences, positions, width, span)
            values = self.dropout(torch.relu(layer(windows.flatten(2))), noise) * is_residue[:, :, None]
        return self.readout(values)


class RecurrentEncoder(nn.Module):
    """As `TransformerEncoder`, by gated recurrent units (Cho et al. 2014, arXiv:1406.1078) in both directions, which
    start at zero; what is told is their last states."""

    def __init__(
        self, n_tokens: int, longest: int, n_out: int, *, width: int, n_layers: int, dropout_rate: float, **_of_heads
    ):
        super().__init__()
        self.embedding = TokenEmbedding(n_tokens, width)
        device = torch.get_default_device()
        with torch.device("meta"):  # elsewhere, the constructor would draw from torch's global generator
            self.units = nn.GRU(width, width, n_layers, batch_first=True, bidirectional=True)
        self.units.to_empty(device=device)
        self.dropout = CoarseDropout(dropout_rate)
        self.readout = ConditionalLinear(2 * width, n_out)

    def initialize(self, generator: torch.Generator) -> None:
        bound = 1 / math.sqrt(self.units.hidden_size)
        for parameter in self.units.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, tokens: Tensor, noise: Noise | None) -> Tensor:
        values = self.dropout(self.embedding(tokens), noise)
        lengths = (tokens > 0).sum(1).clamp_min(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.units(packed)  # (layers · directions, sequences, width)
        return self.readout(torch.cat([last[-2], last[-1]], dim=1))


ENCODERS = {"transformer": TransformerEncoder, "cnn": ConvolutionalEncoder, "gru": RecurrentEncoder}


class DecoderLayer(nn.Module):
    def __init__(self, width: int, n_heads: int, expansion: int, dropout_rate: float):
        super().__init__()
        self.of_residues = Attention(width, n_heads)
        self.of_memory = Attention(width, n_heads)
        self.feed_forward = FeedForward(width, expansion, dropout_rate)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = CoarseDropout(dropout_rate)

    def look_back(self, values: Tensor, places: Places, noise: Noise | None) -> Tensor:
        """At the residues before each of `values`, (places, width), and itself."""
        length = places.shape[1]
        after = torch.ones(length, length, dtype=torch.bool, device=values.device).tril(-1)
        found = self.of_residues.to_itself(values, places, after)
        return self.norms[0](self.dropout.added(values, found, noise))

    def look_up(self, values: Tensor, memory: Tensor, places: Places, noise: Noise | None) -> Tensor:
        """In memory, (sequences, positions of memory, width)."""
        found = self.of_memory.to_memory(values, places, memory)
        values = self.norms[1](self.dropout.added(values, found, noise))
        return self.norms[2](self.dropout.added(values, self.feed_forward(values, noise), noise))


class ChainLike(Protocol):
    """See `data.receptors.Chain`."""

    tokens: Tensor  # (distinct, positions)
    of_cell: Tensor  # (cells,), row of `tokens`


class TransformerDecoder(nn.Module):
    """How well `hidden` tells a sequence. Parameters as of `TransformerEncoder`; `n_in` is the width of `hidden`."""

    def __init__(
        self,
        n_tokens: int,
        longest: int,
        n_in: int,
        *,
        width: int,
        n_layers: int,
        n_heads: int,
        expansion: int,
        dropout_rate: float,
    ):
        super().__init__()
        self.memory = ConditionalLinear(n_in, longest * width)
        self.embedding = TokenEmbedding(n_tokens, width)
        self.dropout = CoarseDropout(dropout_rate)
        self.layers = nn.ModuleList(DecoderLayer(width, n_heads, expansion, dropout_rate) for _ in range(n_layers))
        self.logits = ConditionalLinear(width, n_tokens)

    def forward(self, hidden: Tensor, chain: ChainLike, noise: Noise | None) -> Tensor:
        """−log p of each residue but a sequence's first, in nats, (residues,), cell after cell.

        Parameters
        ----------
        hidden
            (cells, n_in).
        chain
            What does not depend on `hidden` is done once for each distinct sequence.
        noise
            None: nothing is dropped.
        """
        logits, targets = self.told(hidden, chain, noise)
        return F.cross_entropy(logits, targets, reduction="none")

    def told(self, hidden: Tensor, chain: ChainLike, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Logits of each residue but the first, (residues, n_tokens), and the true ones, (residues,)."""
        given, targets = chain.tokens[:, :-1], chain.tokens[:, 1:][chain.of_cell]
        distinct, places = Places(chain.tokens[:, 1:] > 0), Places(targets > 0)
        memory = self.memory(hidden).unflatten(1, (-1, self.embedding.vectors.shape[1]))
        values = self.dropout(embedded(self.embedding, given, distinct), noise)
        for i, layer in enumerate(self.layers):
            values = layer.look_back(values, distinct if i == 0 else places, noise)
            if i == 0:
                values = values.index_select(0, places.packed(distinct.rows[chain.of_cell]) - 1)
            values = layer.look_up(values, memory, places, noise)
        return self.logits(values), places.packed(targets)
