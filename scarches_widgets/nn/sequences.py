"""Sequences of amino acids: three encoders that never see padding, and a decoder.

A sequence is a row of tokens, 1 and up, then 0 to the end of the table. Whatever stands after a sequence's end has no
part in what is said of it, so that a table may be cut to its longest sequence.

The transformer (Vaswani et al. 2017, arXiv:1706.03762) is that of mvTCR: post-norm layers with ReLU. Its decoder is
taught by the true sequence: each residue is predicted from those before it and from `hidden`, which is widened to one
vector per position and attended to; the first residue is given, not predicted.
"""

from __future__ import annotations

import math

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


class Readout(nn.Module):
    """A linear layer over all positions side by side; those that a shorter table lacks count as zero."""

    def __init__(self, longest: int, width: int, n_out: int):
        super().__init__()
        self.linear = ConditionalLinear(longest * width, n_out)

    def forward(self, features: Tensor, is_residue: Tensor) -> Tensor:
        features = (features * is_residue[:, :, None]).flatten(1)
        return F.linear(features, self.linear.weight[:, : features.shape[1]], self.linear.bias)


class Attention(nn.Module):
    """Attention of `n_heads` heads."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.query = ConditionalLinear(width, width)
        self.key_value = ConditionalLinear(width, 2 * width)
        self.out = ConditionalLinear(width, width)

    def forward(self, queries: Tensor, memory: Tensor, allowed: Tensor | None = None) -> Tensor:
        """What each of `queries`, (sequences, positions, width), finds in `memory`, as far as it is `allowed` to look
        there (broadcast to sequences, heads, positions, positions of memory); without the last linear layer."""
        query = self._heads(self.query(queries))
        key, value = (self._heads(part) for part in self.key_value(memory).chunk(2, dim=-1))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return found.transpose(1, 2).flatten(2)

    def _heads(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Of each position alone: widened, ReLU, narrowed."""

    def __init__(self, width: int, expansion: int, dropout_rate: float):
        super().__init__()
        self.wide = ConditionalLinear(width, expansion * width)
        self.narrow = ConditionalLinear(expansion * width, width)
        self.dropout = Dropout(dropout_rate)

    def forward(self, values: Tensor, noise: Noise | None) -> Tensor:
        wide, rate = self.wide(values), self.dropout.rate
        if self.dropout.frozen or not self.training or rate == 0:
            return self.narrow(torch.relu(wide))
        return self.narrow(_ReLUAndDropout.apply(wide, noise.kept_like(wide, 1 - rate), 1 / (1 - rate)))


class _ReLUAndDropout(torch.autograd.Function):
    """relu(values) · kept · scale, in place: the widest values of the network are passed over half as often."""

    @staticmethod
    def forward(ctx, values: Tensor, kept: Tensor, scale: float) -> Tensor:
        result = values.relu_().mul_(kept).mul_(scale)
        ctx.mark_dirty(values)
        ctx.save_for_backward(result)
        ctx.scale = scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, result, 0).mul_(ctx.scale), None, None


class EncoderLayer(nn.Module):
    def __init__(self, width: int, n_heads: int, expansion: int, dropout_rate: float):
        super().__init__()
        self.attention = Attention(width, n_heads)
        self.feed_forward = FeedForward(width, expansion, dropout_rate)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = Dropout(dropout_rate)

    def forward(self, values: Tensor, is_residue: Tensor, noise: Noise | None) -> Tensor:
        found = self.attention(values, values, is_residue[:, None, None, :])
        values = self.norms[0](values + self.dropout(self.attention.out(found), noise))
        return self.norms[1](values + self.dropout(self.feed_forward(values, noise), noise))


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
        self.dropout = Dropout(dropout_rate)
        self.layers = nn.ModuleList(EncoderLayer(width, n_heads, expansion, dropout_rate) for _ in range(n_layers))
        self.readout = Readout(longest, width, n_out)

    def forward(self, tokens: Tensor, noise: Noise | None) -> Tensor:
        is_residue = tokens > 0
        values = self.embedding(tokens)
        values = self.dropout(values + position_codes(*values.shape[1:], like=values), noise)
        for layer in self.layers:
            values = layer(values, is_residue, noise)
        return self.readout(values, is_residue)


class ConvolutionalEncoder(nn.Module):
    """As `TransformerEncoder`, by convolutions over five neighbouring residues, each followed by ReLU."""

    SPAN = 5

    def __init__(
        self, n_tokens: int, longest: int, n_out: int, *, width: int, n_layers: int, dropout_rate: float, **_of_heads
    ):
        super().__init__()
        self.embedding = TokenEmbedding(n_tokens, width)
        self.layers = nn.ModuleList(ConditionalLinear(self.SPAN * width, width) for _ in range(n_layers))
        self.dropout = Dropout(dropout_rate)
        self.readout = Readout(longest, width, n_out)

    def forward(self, tokens: Tensor, noise: Noise | None) -> Tensor:
        is_residue, margin = tokens > 0, self.SPAN // 2
        values = self.embedding(tokens)
        for layer in self.layers:
            windows = F.pad(values, (0, 0, margin, margin)).unfold(
                1, self.SPAN, 1
            )  # (sequences, positions, width, span)
            values = self.dropout(torch.relu(layer(windows.flatten(2))), noise) * is_residue[:, :, None]
        return self.readout(values, is_residue)


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
        self.dropout = Dropout(dropout_rate)
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
        self.dropout = Dropout(dropout_rate)

    def look_back(self, values: Tensor, noise: Noise | None) -> Tensor:
        """At the residues before each, (sequences, positions, width)."""
        length = values.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=values.device).tril()
        found = self.of_residues(values, values, before)
        return self.norms[0](values + self.dropout(self.of_residues.out(found), noise))

    def look_up(self, values: Tensor, memory: Tensor, places: Places, noise: Noise | None) -> Tensor:
        """In memory, (sequences, positions of memory, width); `values` are those of `places` alone."""
        found = places.packed(self.of_memory(places.padded(values), memory))
        values = self.norms[1](values + self.dropout(self.of_memory.out(found), noise))
        return self.norms[2](values + self.dropout(self.feed_forward(values, noise), noise))


class Places:
    """The places of a table, (sequences, positions), at which there is something; layers see these and no padding."""

    def __init__(self, is_there: Tensor):
        self.shape = is_there.shape
        self.index = is_there.flatten().nonzero().squeeze(1)

    def packed(self, values: Tensor) -> Tensor:
        """(sequences, positions, …) to (places, …)."""
        return values.flatten(0, 1).index_select(0, self.index)

    def padded(self, values: Tensor) -> Tensor:
        """(places, width) to (sequences, positions, width), zero elsewhere."""
        table = values.new_zeros(self.shape[0] * self.shape[1], values.shape[1])
        return table.index_copy(0, self.index, values).unflatten(0, self.shape)


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
        self.dropout = Dropout(dropout_rate)
        self.layers = nn.ModuleList(DecoderLayer(width, n_heads, expansion, dropout_rate) for _ in range(n_layers))
        self.logits = ConditionalLinear(width, n_tokens)

    def forward(self, hidden: Tensor, tokens: Tensor, of_cell: Tensor, noise: Noise | None) -> Tensor:
        """−log p of each residue but a sequence's first, in nats, (residues,), cell after cell.

        Parameters
        ----------
        hidden
            (cells, n_in).
        tokens, of_cell
            Distinct sequences, (distinct, positions), and which of them each cell has, (cells,). What does not depend
            on `hidden` is done once for each distinct one.
        noise
            None: nothing is dropped.
        """
        logits, targets = self.told(hidden, tokens, of_cell, noise)
        return F.cross_entropy(logits, targets, reduction="none")

    def told(self, hidden: Tensor, tokens: Tensor, of_cell: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Logits of each residue but the first, (residues, n_tokens), and the true ones, (residues,)."""
        given, targets = tokens[:, :-1], tokens[:, 1:][of_cell]
        places = Places(targets > 0)
        memory = self.memory(hidden).unflatten(1, (-1, self.embedding.vectors.shape[1]))
        values = self.embedding(given)
        values = self.dropout(values + position_codes(*values.shape[1:], like=values), noise)
        for i, layer in enumerate(self.layers):
            if i == 0:
                values = places.packed(layer.look_back(values, noise)[of_cell])
            else:
                values = places.packed(layer.look_back(places.padded(values), noise))
            values = layer.look_up(values, memory, places, noise)
        return self.logits(values), targets.flatten()[places.index]
