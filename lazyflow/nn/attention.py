"""Attention and the Transformer's encoder and decoder, over one example's sequences of any length: no
padding, no batch axis.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.functions.elementwise import logical_not
from lazyflow.functions.linalg import matmul
from lazyflow.functions.random import dropout as dropped
from lazyflow.functions.reduce import mean
from lazyflow.functions.shape import split, transpose
from lazyflow.nn import init
from lazyflow.nn.container import ModuleList
from lazyflow.nn.dropout import Dropout
from lazyflow.nn.functional.activation import gelu, relu
from lazyflow.nn.functional.attention import attended_by, attention_weights, factors_of_weights, mask_of, weights_by
from lazyflow.nn.functional.maps import affine
from lazyflow.nn.linear import Linear
from lazyflow.nn.module import Module, checked_probability, checked_sizes, new_parameter
from lazyflow.nn.normalization import LayerNorm
from lazyflow.nn.one_node import one_node
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, Parameter, as_floating, constant

__all__ = [
    "MultiheadAttention",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]


# Of what the node of a layer gives: a result and its weights.
_WEIGHTS_MADE = 2


class MultiheadAttention(Module):
    """Attention in ``num_heads`` subspaces (Vaswani et al. 2017), with the parameters of PyTorch's.

    Called with query (t, embed_dim), key (s, embed_dim) and value (s, embed_dim) of one example, it returns the result
    (t, embed_dim) and, unless ``need_weights=False``, the weights (t, s), averaged over the heads, or (num_heads, t, s)
    with ``average_attn_weights=False``. ``attn_mask`` is (t, s) or (num_heads, t, s): of truth values, the true places
    take no part; floating numbers are added. ``is_causal``: place i sees the places up to i.

    Parameters: ``in_proj_weight`` (3 embed_dim, embed_dim), ``in_proj_bias`` and ``out_proj``, a `Linear`. Raises
    ``ValueError`` unless ``num_heads`` divides ``embed_dim``, `ShapeError` for operands of other sizes.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> x = lf.constant(np.ones((5, 8), np.float32))
    >>> y, weights = lf.nn.MultiheadAttention(8, 2)(x, x, x)
    >>> y.shape, weights.shape
    ((5, 8), (5, 5))
    """

    quiet = True

    in_proj_bias: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        stream: Stream | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = checked_sizes("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads)
        if self.embed_dim % self.num_heads:
            raise ValueError(f"MultiheadAttention: num_heads={num_heads} must divide embed_dim={embed_dim}")
        self.dropout, self.stream = checked_probability("MultiheadAttention", dropout), stream
        self.in_proj_weight = new_parameter(3 * self.embed_dim, self.embed_dim)
        self.in_proj_bias = new_parameter(3 * self.embed_dim) if bias else None
        self.out_proj = Linear(self.embed_dim, self.embed_dim, bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        init.xavier_uniform_(self.in_proj_weight)
        self.out_proj.reset_parameters()
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Expr, Expr | None]:
        """The result, and the weights or None."""
        for name, flag in (("need_weights", need_weights), ("is_causal", is_causal)):
            if not isinstance(flag, bool | np.bool_):
                raise TypeError(f"MultiheadAttention: {name} is True or False, got {flag!r}; masks go by attn_mask=")
        own = query is key and key is value
        given = self._checked("query", query), self._checked("key", key), self._checked("value", value)
        if given[1].shape != given[2].shape:
            raise ShapeError(
                f"MultiheadAttention: key and value must have one shape, got {given[1].shape} and {given[2].shape}"
            )
        mask = self._mask(attn_mask, given[0], given[1])
        options = mask, bool(need_weights), bool(average_attn_weights), bool(is_causal)
        found = self._to_itself(given[0], *options) if own else self._to_others(*given, *options)
        if len(found) <= _WEIGHTS_MADE:
            result, weights = found
            return result, weights
        result, queries, keys, *factors = found  # outside of the node, so that weights that nobody reads are not made
        kept = factors[0] if factors else None
        how = self.num_heads, bool(is_causal), bool(average_attn_weights)
        return result, weights_by(queries, keys, *how, mask, True, kept)

    @one_node
    def _to_itself(self, x: Expr, *options: Any) -> Any:
        """One product for query, key and value."""
        return self._attention(split(affine(self.in_proj_weight, self.in_proj_bias, x), 3, axis=1), *options)

    @one_node
    def _to_others(self, query: Expr, key: Expr, value: Expr, *options: Any) -> Any:
        weights = split(self.in_proj_weight, 3)
        biases = [None] * 3 if self.in_proj_bias is None else split(self.in_proj_bias, 3)
        projected = [affine(w, b, x) for w, b, x in zip(weights, biases, (query, key, value), strict=True)]
        return self._attention(projected, *options)

    def _attention(
        self, projected: list[Expr], mask: Expr | None, need_weights: bool, average: bool, is_causal: bool
    ) -> tuple[Expr | None, ...]:
        """The result, and the weights or None; or what weights are made of, queries, keys, and factors if there are."""
        p, (query, key, value) = self.dropout if self.training else 0.0, projected
        factors = factors_of_weights(query, key, self.num_heads, p, self.stream) if len(query) and len(key) else None
        found = attended_by(query, key, value, self.num_heads, is_causal, mask, True, factors)
        if found is not None:
            beside = () if factors is None else (factors,)
            return (self.out_proj(found), query, key, *beside) if need_weights else (self.out_proj(found), None)
        q, k, v = (self._heads(x) for x in projected)
        if mask is not None and mask.dtype.kind == "b":
            mask = logical_not(mask)
        weights = attention_weights(q, k, mask, is_causal)
        kept = dropped(weights, self.dropout, training=self.training, stream=self.stream)
        joined = transpose(matmul(kept, v), (1, 0, 2)).reshape(-1, self.embed_dim)
        weights = mean(kept, axis=0) if average else kept
        return self.out_proj(joined), weights if need_weights else None

    def _checked(self, name: str, x: Any) -> Expr:
        given = as_floating(x, self.in_proj_weight)
        if given.ndim != 2 or given.shape[1] != self.embed_dim:
            raise ShapeError(
                f"MultiheadAttention: {name} must be one example's (length, {self.embed_dim}), got shape {given.shape}"
            )
        return given

    def _mask(self, attn_mask: Any, query: Expr, key: Expr) -> Expr | None:
        mask, t, s = mask_of(attn_mask), query.shape[0], key.shape[0]
        if mask is not None and 2 <= mask.ndim <= 3:
            wanted = (self.num_heads, t, s)[3 - mask.ndim :]
            if any(n not in (1, m) for n, m in zip(mask.shape, wanted, strict=True)):
                raise ShapeError(
                    f"MultiheadAttention: attn_mask is ({t}, {s}) or ({self.num_heads}, {t}, {s}) for {t} queries "
                    f"and {s} keys, got {mask.shape}"
                )
        return mask

    def _heads(self, x: Expr) -> Expr:
        """By heads, (num_heads, t, embed_dim / num_heads)."""
        return transpose(x.reshape(x.shape[0], self.num_heads, self.embed_dim // self.num_heads), (1, 0, 2))

    def extra_repr(self) -> str:
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        return f"{self.embed_dim}, {self.num_heads}{dropout}" + (
            "" if self.in_proj_bias is not None else ", bias=False"
        )


_ACTIVATIONS: dict[str, Callable[[Any], Expr]] = {"relu": relu, "gelu": gelu}


def _activation(owner: str, activation: str | Callable[[Any], Expr]) -> Callable[[Any], Expr]:
    if isinstance(activation, str) and activation not in _ACTIVATIONS:
        raise ValueError(f"{owner}: activation must be relu, gelu or a function, got {activation!r}")
    return _ACTIVATIONS[activation] if isinstance(activation, str) else activation


def _first_weight(layer: _Layer) -> Parameter | None:
    """The first parameter of a layer, whose dtype its sequences have: most often its attention's, and nobody has to
    walk through all modules below."""
    found = getattr(layer.self_attn, "in_proj_weight", None)
    return found if isinstance(found, Parameter) else next(layer.parameters(), None)


class _Layer(Module):
    """What the layers of encoder and decoder have in common: attention and a network of two layers, ``parts`` in all,
    each with a norm and a residual connection."""

    quiet = True
    parts: int
    self_attn: MultiheadAttention
    norm1: LayerNorm
    norm2: LayerNorm
    dropout: Dropout
    dropout1: Dropout
    dropout2: Dropout

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Any], Expr] = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
        *,
        stream: Stream | None = None,
    ) -> None:
        super().__init__()
        chosen = _activation(type(self).__name__, activation)
        for name in ("self_attn", "multihead_attn")[: self.parts - 1]:
            setattr(self, name, MultiheadAttention(d_model, nhead, dropout, bias, stream=stream))
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        for name in ("norm1", "norm2", "norm3")[: self.parts]:
            setattr(self, name, LayerNorm(d_model, layer_norm_eps, bias=bias))
        for name in ("dropout", "dropout1", "dropout2", "dropout3")[: self.parts + 1]:
            setattr(self, name, Dropout(dropout, stream=stream))
        self.activation = chosen
        self.norm_first = bool(norm_first)

    def _part(self, x: Expr, norm: Module, dropout: Module, part: Callable[..., Expr], *others: Any) -> Expr:
        """``x`` and what a part makes of it."""
        y: Expr = x + dropout(part(norm(x), *others)) if self.norm_first else norm(x + dropout(part(x, *others)))
        return y

    def _to_itself(self, x: Expr, mask: Any, is_causal: bool) -> Expr:
        return _attended(self.self_attn, x, x, mask, is_causal)

    def _network(self, x: Expr) -> Expr:
        result: Expr = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return result


def _attended(attention: Module, x: Expr, to: Expr, mask: Any, is_causal: bool) -> Expr:
    result: Expr = attention(x, to, to, need_weights=False, attn_mask=mask, is_causal=is_causal)[0]
    return result


class TransformerEncoderLayer(_Layer):
    """Self-attention and a network of two layers, each with a residual connection (Vaswani et al. 2017).

    Called with one example's sequence (t, d_model), of any t; parameters and options are those of
    ``torch.nn.TransformerEncoderLayer``. ``norm_first``: normalised before each part, not after. ``activation``:
    ``"relu"``, ``"gelu"`` or a function. ``src_mask`` as ``attn_mask`` in `MultiheadAttention`.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> layer = lf.nn.TransformerEncoderLayer(8, 2, dim_feedforward=16)
    >>> layer(lf.constant(np.ones((5, 8), np.float32))).shape
    (5, 8)
    """

    parts = 2

    def forward(self, src: Any, src_mask: Any = None, is_causal: bool = False) -> Expr:
        """The sequence, one layer further."""
        mask = mask_of(src_mask)
        return self._further(as_floating(src, _first_weight(self)), mask, bool(is_causal))

    @one_node
    def _further(self, x: Expr, src_mask: Expr | None, is_causal: bool) -> Expr:
        x = self._part(x, self.norm1, self.dropout1, self._to_itself, src_mask, is_causal)
        return self._part(x, self.norm2, self.dropout2, self._network)


class TransformerEncoder(Module):
    """``num_layers`` copies of a layer, one after another, and a norm at the end if one is given.

    The copies start with the weights of ``encoder_layer``, as in PyTorch, and are trained apart.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> encoder = lf.nn.TransformerEncoder(lf.nn.TransformerEncoderLayer(8, 2, 16), num_layers=2)
    >>> encoder(lf.constant(np.ones((5, 8), np.float32))).shape
    (5, 8)
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        (count,) = checked_sizes("TransformerEncoder", num_layers=num_layers)
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(count))
        self.norm = norm

    def forward(self, src: Any, mask: Any = None, is_causal: bool = False) -> Expr:
        """The sequence through all layers."""
        x = constant(src)
        for layer in self.layers:
            x = layer(x, mask, is_causal)
        return x if self.norm is None else self.norm(x)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to what an encoder made, and a network of two layers, each with a residual connection
    (Vaswani et al. 2017).

    Called with one example's ``tgt`` (t, d_model) and ``memory`` (s, d_model), of any t and s; parameters and options
    are those of ``torch.nn.TransformerDecoderLayer``. Masks as ``attn_mask`` in `MultiheadAttention`, of (t, t) and
    (t, s); ``tgt_is_causal=True`` by itself lets place i see the places up to i.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> layer = lf.nn.TransformerDecoderLayer(8, 2, dim_feedforward=16)
    >>> tgt, memory = (lf.constant(np.ones((n, 8), np.float32)) for n in (3, 5))
    >>> layer(tgt, memory, tgt_is_causal=True).shape
    (3, 8)
    """

    parts = 3
    multihead_attn: MultiheadAttention
    norm3: LayerNorm
    dropout3: Dropout

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        *,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Expr:
        """The sequence, one layer further."""
        first = _first_weight(self)
        own_mask, its_mask = mask_of(tgt_mask), mask_of(memory_mask)
        x, memory = as_floating(tgt, first), as_floating(memory, first)
        return self._further(x, memory, own_mask, its_mask, bool(tgt_is_causal), bool(memory_is_causal))

    @one_node
    def _further(self, x: Expr, memory: Expr, tgt_mask: Any, memory_mask: Any, is_causal: bool, to_it: bool) -> Expr:
        x = self._part(x, self.norm1, self.dropout1, self._to_itself, tgt_mask, is_causal)
        x = self._part(x, self.norm2, self.dropout2, self._to_memory, memory, memory_mask, to_it)
        return self._part(x, self.norm3, self.dropout3, self._network)

    def _to_memory(self, x: Expr, memory: Expr, mask: Any, is_causal: bool) -> Expr:
        return _attended(self.multihead_attn, x, memory, mask, is_causal)


class TransformerDecoder(Module):
    """``num_layers`` copies of a `TransformerDecoderLayer`, one after another, and a norm at the end if one is given.

    The copies start with the weights of ``decoder_layer``, as in PyTorch, and are trained apart.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> decoder = lf.nn.TransformerDecoder(lf.nn.TransformerDecoderLayer(8, 2, 16), num_layers=2)
    >>> tgt, memory = (lf.constant(np.ones((n, 8), np.float32)) for n in (3, 5))
    >>> decoder(tgt, memory, tgt_is_causal=True).shape
    (3, 8)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        (count,) = checked_sizes("TransformerDecoder", num_layers=num_layers)
        self.layers = ModuleList(copy.deepcopy(decoder_layer) for _ in range(count))
        self.norm = norm

    def forward(self, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None, **causal: bool) -> Expr:
        """The sequence through all layers; options as those of `TransformerDecoderLayer`."""
        x, memory = constant(tgt), constant(memory)
        for layer in self.layers:
            x = layer(x, memory, tgt_mask, memory_mask, **causal)
        return x if self.norm is None else self.norm(x)
