"""How each operation is written: an expression over values that there are, or None where there is none that fits."""

from __future__ import annotations

import math
from typing import Any

import lazyflow as lf
from tests.fuzz.generate import Writer, template
from tests.fuzz.reference import Node, Parameter
from tests.ops import derived

# Elementwise functions of one value, and how to bring one into their domain.
POSITIVE = "lf.abs({0}) + 0.25"
WITHIN = "lf.tanh({0}) * 0.9"
UNARY: dict[str, str] = {
    **dict.fromkeys(
        ("negative", "abs", "sign", "square", "exp", "expm1", "sin", "cos", "arctan", "sinh", "cosh", "tanh", "arcsinh",
         "erf", "sigmoid", "logsigmoid", "softplus", "softsign", "relu", "ndtr", "selu", "silu", "gelu", "floor",
         "ceil", "round", "tanhshrink", "numpy.exp2", "numpy.cbrt", "numpy.sinc", "numpy.deg2rad", "numpy.rad2deg"),
        "{0}"),
    **dict.fromkeys(("sqrt", "log", "lgamma", "reciprocal", "numpy.log2", "numpy.log10"), POSITIVE),
    **dict.fromkeys(("log1p", "arcsin", "arccos", "arctanh", "tan"), WITHIN),
    "arccosh": "lf.abs({0}) + 1.25",
}  # fmt: skip


# What has a row in the table of accuracy alone.
for _name in [name for name in derived.names(UNARY) if name in lf.functions.__all__]:
    _low, _high = derived.domain(_name)
    UNARY[_name] = "{0}" if _low < -1 and _high > 1 else WITHIN if _low > -1 and _high < 1 else POSITIVE


def unary(name: str, domain: str) -> Any:
    def write(w: Writer) -> str | None:
        x = w.real()
        if x is None:
            return None
        return f"lf.{name}({domain.format(x) if not w.special or w.chance(0.3) else x})"

    return write


for _name, _domain in UNARY.items():
    _weight = 0.7 if _name in ("tanh", "sigmoid", "exp", "relu") else 0.08 if "." in _name else 0.22
    template(_weight, _name)(unary(_name, _domain))


@template(0.3)
def gelu_tanh(w: Writer) -> str | None:
    x = w.real()
    return x and f"lf.gelu({x}, approximate=True)"


SYMBOLS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "power": "**", "floor_divide": "//",
           "remainder": "%", "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">",
           "greater_equal": ">="}  # fmt: skip


def binary(name: str) -> Any:
    def write(w: Writer) -> str | None:
        a = (
            w.real()
            if name in ("divide", "power", "floor_divide", "remainder", "arctan2", "hypot") or "." in name
            else w.pick(lambda n: n.dtype.kind != "b")
        )
        if a is None:
            return None
        b = w.like(a) if w.chance(0.5) else w.broadcastable(a)
        if name == "power":
            a, b = (
                f"(lf.abs({a}) + 0.5)",
                w.one("2", "3", "0.5", "-1", "2.0", f"lf.tanh({b})" if b in w.names else "1.5"),
            )
            if w.chance(0.4):
                a, b = w.real() or a, w.one("2", "3", "2.0", "1", "0")
        elif name in ("divide", "floor_divide", "remainder") and not w.special:
            b = f"(lf.abs({b}) + 0.5)" if b in w.names else b
        if w.chance(0.25) and name != "power":
            b = w.number()
        if w.chance(0.15):
            a, b = b, a
        if name in SYMBOLS and w.chance(0.75) and (a.strip("()") in w.names or b in w.names or "lf." in a + b):
            return f"{a} {SYMBOLS[name]} {b}"
        return f"lf.{name}({a}, {b})"

    return write


for _name, _weight in {
    "add": 2.5, "subtract": 1.5, "multiply": 2.5, "divide": 0.8, "power": 0.5, "floor_divide": 0.12, "remainder": 0.12,
    "hypot": 0.15, "numpy.fmax": 0.1, "numpy.fmin": 0.1, "numpy.logaddexp": 0.1, "numpy.logaddexp2": 0.1,
    "maximum": 0.4, "minimum": 0.4, "arctan2": 0.2, "equal": 0.1, "not_equal": 0.1, "less": 0.2, "less_equal": 0.1,
    "greater": 0.2, "greater_equal": 0.1,
}.items():  # fmt: skip
    template(_weight, _name)(binary(_name))


def bits(name: str) -> Any:
    """A function of integers."""

    def write(w: Writer) -> str | None:
        a = w.pick(lambda n: n.dtype.kind in "iu")
        shape = w.node(a).shape if a else (3,)
        other = f"integers({', '.join([w.seed_text(), '4', *map(str, shape)])})"
        b = w.one("1", "3", other)
        return f"lf.numpy.{name}({a or f'lf.constant({other})'}, {b})"

    return write


for _name in ("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"):
    template(0.04, _name)(bits(_name))


@template(0.04)
def invert(w: Writer) -> str | None:
    a = w.pick(lambda n: n.dtype.kind in "iub") or truth(w)
    return a and f"lf.numpy.invert({a})"


def truth(w: Writer) -> str | None:
    found = w.pick(lambda n: n.dtype == bool)
    a = w.real()
    return found if found and w.chance(0.5) else a and f"({a} > {w.one('0.0', '0.25', '-0.5')})"


@template(0.2)
def logical_and(w: Writer) -> str | None:
    a, b = truth(w), truth(w)
    return a and b and w.one(f"{a} & {b}", f"lf.logical_and({a}, {b})")


@template(0.2)
def logical_or(w: Writer) -> str | None:
    a, b = truth(w), truth(w)
    return a and b and w.one(f"{a} | {b}", f"lf.logical_or({a}, {b})")


@template(0.15)
def logical_not(w: Writer) -> str | None:
    a = truth(w)
    return a and w.one(f"~{a}", f"lf.logical_not({a})")


@template(0.1)
def isnan(w: Writer) -> str | None:
    a = w.real()
    return a and f"lf.isnan({a})"


@template(0.1)
def isfinite(w: Writer) -> str | None:
    a = w.real()
    return a and f"lf.isfinite({a})"


@template(0.6)
def where(w: Writer) -> str | None:
    c, a = truth(w), w.real()
    if c is None or a is None:
        return None
    b = w.one(w.like(a), w.broadcastable(a), "0.0")
    return f"lf.where({c}, {a}, {b})" if w.chance(0.7) else f"lf.where({c}, {b}, {a})"


@template(0.4)
def clip(w: Writer) -> str | None:
    a = w.real()
    return a and w.one(f"lf.clip({a}, -0.5, 0.75)", f"{a}.clip(-1.0, 0.5)", f"lf.clip({a}, 0.0, {w.like(a)})")


@template(0.3)
def hardtanh(w: Writer) -> str | None:
    a = w.real()
    return a and w.one(f"lf.hardtanh({a})", f"lf.hardtanh({a}, -0.5, 2.0)")


@template(0.3)
def leaky_relu(w: Writer) -> str | None:
    a = w.real()
    return a and w.one(f"lf.leaky_relu({a})", f"lf.leaky_relu({a}, 0.3)")


@template(0.3)
def elu(w: Writer) -> str | None:
    a = w.real()
    return a and w.one(f"lf.elu({a})", f"lf.elu({a}, 0.5)")


@template(0.2)
def celu(w: Writer) -> str | None:
    a = w.real()
    return a and w.one(f"lf.celu({a})", f"lf.celu({a}, 0.5)")


@template(0.2)
def astype(w: Writer) -> str | None:
    a = w.pick()
    kind = w.one("float32", "float64", w.dtype, w.dtype, "float16")
    if a and w.node(a).dtype.kind == "f" and w.chance(0.05) and not w.special:
        kind = "int32"
    return a and w.one(f'{a}.astype("{kind}")', f'lf.astype({a}, "{kind}")')


@template(0.2)
def scale_gradient(w: Writer) -> str | None:
    a = w.real()
    return a and f"lf.scale_gradient({a}, {w.one(-1.0, 0.5, 2.0)})"


@template(0.5)
def detach(w: Writer) -> str | None:
    a = w.real()
    if a is None:
        return None
    b = w.like(a)
    return w.one(
        f"{a}.detach()", f"{b} * {a}.detach()", f"lf.sum([{a}.detach(), {b}])", f"lf.stack([{b}, {a}.detach()])"
    )


# Parts and shapes.


@template(1.6)
def block(w: Writer) -> str | None:
    """A part along the first axis, which is a view."""
    a = w.pick(lambda n: n.ndim > 0 and n.shape[0] > 0)
    if a is None:
        return None
    n = w.node(a).shape[0]
    low = w.random.randrange(n)
    high = w.random.randrange(low, n) + 1
    return w.one(f"{a}[{w.index(n)}]", f"{a}[{low}:{high}]", f"{a}[{low}:]", f"{a}[:{high}]", f"{a}[-{n - low}]")


@template(0.6)
def getitem(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 0)
    if a is None:
        return None
    ends = ["", "", "", "0", "1", "2", "3", "-1", "-2", "-5", "7"]
    parts = []
    for n in w.node(a).shape:
        step = w.one("", "", ":1", ":2", ":-1", ":-2")
        part = f"{w.one(*ends)}:{w.one(*ends)}{step}"
        parts.append(w.one(part, part, str(w.random.randrange(n)) if n else ":"))
    key = parts[: w.random.randrange(1, len(parts) + 1)]
    if w.chance(0.2):
        key.insert(w.random.randrange(len(key) + 1), "None")
    if w.chance(0.15):
        key.insert(w.random.randrange(len(key) + 1), "...")
    return f"{a}[{', '.join(key)}]"


@template(0.5)
def split(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 0 and n.shape[0] in (2, 3, 4))
    if a is None:
        return None
    n = w.node(a).shape[0]
    return w.one(f"lf.split({a}, {n})[{w.random.randrange(n)}]", f"lf.split({a}, [1])[{w.random.randrange(2)}]",
                 f"lf.split({a}, {n}, axis=-{w.node(a).ndim})[0]")  # fmt: skip


@template(0.8)
def reshape(w: Writer) -> str | None:
    a = w.pick()
    if a is None:
        return None
    size = w.node(a).size
    d = w.one(*[d for d in range(1, max(size, 1) + 1) if max(size, 1) % d == 0])
    shape = w.one("-1,", f"{d}, -1" if size else "-1,", f"{size // d}, {d}", f"1, {size}", f"{size}, 1")
    return w.one(f"{a}.reshape({shape})", f"lf.reshape({a}, ({shape}))", f"lf.ravel({a})", f"{a}.flatten()")


@template(0.5)
def transpose(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 1) or w.pick()
    if a is None:
        return None
    axes = list(range(w.node(a).ndim))
    w.random.shuffle(axes)
    return w.one(f"{a}.T", f"lf.transpose({a})", f"lf.transpose({a}, {tuple(axes)})", f"{a}.transpose()")


@template(0.2)
def swapaxes(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 0)
    return a and f"lf.swapaxes({a}, {w.axis(w.node(a))}, {w.axis(w.node(a))})"


@template(0.3)
def expand_dims(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim < 3)
    return a and f"lf.expand_dims({a}, {w.random.randrange(w.node(a).ndim + 1)})"


@template(0.2)
def squeeze(w: Writer) -> str | None:
    a = w.pick(lambda n: 1 in n.shape)
    return a and w.one(f"lf.squeeze({a})", f"{a}.squeeze()", f"lf.squeeze({a}, {w.node(a).shape.index(1)})")


@template(0.2)
def broadcast_to(w: Writer) -> str | None:
    a = w.pick(lambda n: n.size < 20)
    return a and f"lf.broadcast_to({a}, {(w.one(1, 2, 3), *w.node(a).shape)})"


@template(0.2)
def flip(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 0)
    return a and w.one(f"lf.flip({a})", f"lf.flip({a}, {w.axis(w.node(a))})")


@template(0.2)
def roll(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 0)
    return a and w.one(f"lf.roll({a}, {w.one(1, -2, 5)})", f"lf.roll({a}, {w.one(1, -2, 5)}, {w.axis(w.node(a))})")


@template(0.2)
def tile(w: Writer) -> str | None:
    a = w.pick(lambda n: n.size < 20)
    return a and w.one(f"lf.tile({a}, 2)", f"lf.tile({a}, (2, 1))", f"lf.tile({a}, (1, 2, 1))")


@template(0.2)
def repeat(w: Writer) -> str | None:
    a = w.pick(lambda n: n.size < 20)
    if a is None:
        return None
    return w.one(
        f"lf.repeat({a}, 2)", f"lf.repeat({a}, {w.one(0, 1, 3)}, {w.axis(w.node(a))})" if w.node(a).ndim else None
    )


@template(0.2)
def tril(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 1)
    return a and w.one(f"lf.tril({a})", f"lf.tril({a}, {w.one(-1, 1, 2)})")


@template(0.2)
def triu(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 1)
    return a and w.one(f"lf.triu({a})", f"lf.triu({a}, {w.one(-1, 1, 2)})")


@template(0.2)
def diagonal(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 1)
    return a and w.one(f"lf.diagonal({a})", f"{a}.diagonal({w.one(-1, 0, 1)})", f"lf.diagonal({a}, 0, -1, 0)")


@template(0.3)
def pad(w: Writer) -> str | None:
    a = w.pick(lambda n: 0 < n.ndim < 3 and n.size < 20)
    if a is None:
        return None
    n = w.node(a)
    whole = "constant_value=1.5" if n.dtype.kind == "f" else "constant_value=2"
    width = w.one("1", "(1, 2)", str(tuple((w.one(0, 1, 2), w.one(0, 1)) for _ in n.shape)))
    mode = w.one("edge", "reflect", "symmetric", "wrap")
    return w.one(f"lf.pad({a}, {width})", f"lf.pad({a}, {width}, {whole})",
                 f'lf.pad({a}, {width}, mode="{mode}")' if n.size else None)  # fmt: skip


def listed(w: Writer, most: int = 5) -> list[str]:
    """Values of one shape and dtype, some twice, some detached."""
    a = w.real() if w.chance(0.9) else w.pick()
    if a is None:
        return []
    found = [a, *(w.like(a) for _ in range(w.random.randrange(0, most)))]
    return [f"{v}.detach()" if v in w.names and w.chance(0.15) else v for v in found]


@template(1.0)
def sum_list(w: Writer) -> str | None:
    items = listed(w)
    if not any(i.split(".")[0] in w.names for i in items):
        return None
    return w.one(f"lf.sum([{', '.join(items)}])", f"lf.mean([{', '.join(items)}])")


@template(0.9)
def stack(w: Writer) -> str | None:
    items = listed(w, 4)
    return (items and f"lf.stack([{', '.join(items)}]{w.one('', '', ', axis=-1', ', axis=1')})") or None


@template(0.9)
def concatenate(w: Writer) -> str | None:
    items = listed(w, 4)
    if items and w.chance(0.3) and items[0] in w.names:
        shape = w.node(items[0]).shape
        other = w.pick(lambda n: n.shape[1:] == shape[1:] and n.ndim == len(shape))
        items.append(other or items[0])
    return (items and f"lf.concatenate([{', '.join(items)}]{w.one('', '', ', axis=-1', ', axis=1')})") or None


@template(0.15)
def of_list(w: Writer) -> str | None:
    if not w.lists:
        return None
    name = w.random.choice(w.lists)
    size = len(w.names[name])
    some = w.one("", f"[:{w.random.randrange(1, size + 1)}]", f"[::{w.one(2, 3)}]")
    return w.one(f"lf.sum({name}{some})", f"lf.mean({name}{some})", f"{name}[{w.random.randrange(size)}]",
                 f"lf.stack({name}[:{min(size, 4)}])")  # fmt: skip


# Reductions.


def reduction(name: str) -> Any:
    def write(w: Writer) -> str | None:
        a = w.real() if name in ("norm", "logsumexp") or w.chance(0.9) else w.pick()
        if a is None:
            return None
        n = w.node(a)
        axes = ["", "", "axis=None"]
        if n.ndim:
            axes += [f"axis={w.axis(n)}", f"axis={w.axis(n)}, keepdims=True"]
        if n.ndim > 1 and name not in ("argmax", "argmin"):
            axes.append("axis=(0, -1)")
        how = w.one(*axes)
        if name == "norm" and w.chance(0.6):
            how = f"ord={w.one('1', '2', 'np.inf')}, {how}"
        if name in ("var", "std") and w.chance(0.3):
            how = f"ddof=1, {how}"
        method = name in ("sum", "mean", "max", "min", "any", "all", "prod", "std", "var", "argmin") and w.chance(0.3)
        return f"{a}.{name}({how})" if method else f"lf.{name}({a}, {how})"

    return write


for _name, _weight in {
    "sum": 1.5, "mean": 0.8, "prod": 0.3, "max": 0.5, "min": 0.4, "any": 0.12, "all": 0.12, "var": 0.35, "std": 0.3,
    "norm": 0.35, "logsumexp": 0.35, "argmax": 0.25, "argmin": 0.15,
}.items():  # fmt: skip
    template(_weight, _name)(reduction(_name))


@template(0.3)
def cumsum(w: Writer) -> str | None:
    a = w.pick(lambda n: n.dtype.kind != "b")
    if a is None:
        return None
    return w.one(f"lf.cumsum({a})", f"lf.cumsum({a}, {w.axis(w.node(a))})" if w.node(a).ndim else f"{a}.cumsum()")


@template(0.5)
def softmax(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim > 0)
    return a and f"lf.softmax({a}{w.one('', f', axis={w.axis(w.node(a))}')})"


@template(0.5)
def log_softmax(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim > 0)
    return a and f"lf.log_softmax({a}{w.one('', f', axis={w.axis(w.node(a))}')})"


@template(0.4)
def layer_norm(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim > 0 and n.size > 0)
    if a is None or w.special:
        return None
    n = w.node(a)
    return f"lf.nn.functional.layer_norm({a}, {n.shape[w.one(0, -1) :]}, eps={w.one(0.1, 1.5)})"


@template(0.15)
def sparsemax(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim > 0 and n.size < 20)
    return None if w.special else a and f"lf.sparsemax({a}{w.one('', f', axis={w.axis(w.node(a))}')})"


@template(0.1)
def constrained_softmax(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim > 0 and n.size < 20)
    if a is None or w.special:
        return None
    return f"lf.constrained_softmax({a}, {w.array(w.node(a).shape, w.node(a).dtype.name, low=0.15, high=0.9)})"


# Products.


@template(1.6)
def matmul(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim > 0)
    if a is None:
        return None
    inner, dtype = w.node(a).shape[-1], w.node(a).dtype
    b = w.real(
        lambda n: n.ndim > 0 and n.shape[-2 if n.ndim > 1 else -1] == inner and (n.dtype == dtype or w.chance(0.1))
    )
    if b is None or w.chance(0.2):
        b = w.array((inner, w.one(1, 2, 3)), dtype.name)
    return w.one(f"{a} @ {b}", f"lf.matmul({a}, {b})")


@template(0.6)
def attention(w: Writer) -> str | None:
    """Of queries to keys and values of one dtype, often the same."""
    q = w.real(lambda n: n.ndim == 2 and n.size > 0)
    if q is None or w.special:
        return None
    like = w.node(q)
    k = w.real(lambda n: n.ndim == 2 and n.size > 0 and n.shape[1] == like.shape[1] and n.dtype == like.dtype)
    if k is None:
        return None
    rows = w.node(k).shape[0]
    v = w.real(lambda n: n.ndim == 2 and n.size > 0 and n.shape[0] == rows and n.dtype == like.dtype)
    shown = [w.chance(0.7) for _ in range(rows)]
    how = w.one("", "", f", {shown}") + w.one("", "", ", dropout_p=0.25") + w.one("", ", is_causal=True")
    return v and f"lf.nn.functional.scaled_dot_product_attention({q}, {k}, {v}{how})"


@template(1.6)
def affine(w: Writer) -> str | None:
    if "W" not in w.names:
        return None
    n = w.node("W").shape[1]
    x = w.real(lambda v: v.ndim > 0 and v.shape[-1] == n and v.ndim < 3)
    return x and w.one(
        f"lf.affine(W, b, {x})", f"lf.affine(W, b, {x})", f"W @ {x}", f"{x} @ W.T + b", f"lf.matmul(W, {x}) + b"
    )


@template(0.5)
def dot(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim == 1)
    return a and f"lf.dot({a}, {w.like(a)})"


@template(0.4)
def outer(w: Writer) -> str | None:
    a, b = w.real(lambda n: n.ndim == 1), w.real(lambda n: n.ndim == 1)
    return a and b and f"lf.outer({a}, {b})"


@template(0.3)
def einsum(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim == 2)
    if a is None:
        return None
    n = w.node(a).shape[1]
    v = w.real(lambda x: x.shape == (n,) and x.dtype == w.node(a).dtype) or w.array((n,), w.node(a).dtype.name)
    b = w.real(lambda x: x.ndim == 2 and x.shape[0] == n and x.dtype == w.node(a).dtype) or w.array(
        (n, 2), w.node(a).dtype.name
    )
    return w.one(
        f'lf.einsum("ij,j->i", {a}, {v})',
        f'lf.einsum("ij,jk->ki", {a}, {b})',
        f'lf.einsum("ij,ij->j", {a}, {w.like(a)})',
        f'lf.einsum("ij,ij->", {a}, {a})',
        f'lf.einsum("ij,ij->i", {a}, {v}.reshape(1, -1))',
        f'lf.einsum("i,ki->k", {v}, {a})',
    )


@template(0.2)
def bilinear(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim == 1 and 0 < n.size < 5)
    if a is None:
        return None
    k, t = w.node(a).size, w.node(a).dtype.name
    b = w.real(lambda n: n.ndim == 1 and 0 < n.size < 5 and n.dtype.name == t) or a
    return f"lf.bilinear({a}, {w.array((2, k, w.node(b).size), t)}, {b})"


@template(0.12)
def circular(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim == 1 and 0 < n.size < 6)
    return a and f"lf.circular_{w.one('convolution', 'correlation')}({a}, {w.like(a)})"


# Convolutions and pooling.


def image(w: Writer) -> str | None:
    """A value of channels and one or two further axes."""
    a = w.real(lambda n: n.ndim in (2, 3) and 2 < n.size < 40 and min(n.shape) > 0)
    if a and w.chance(0.7):
        return a
    b = w.real(lambda n: n.ndim == 1 and 1 < n.size < 9 and n.size % 2 == 0)
    return f"{b}.reshape(2, {w.node(b).size // 2})" if b else a


def shape_of(w: Writer, text: str) -> tuple[tuple[int, ...], str]:
    node = eval(text, w.names)
    assert isinstance(node, Node)
    return node.shape, node.dtype.name


@template(0.3)
def conv(w: Writer) -> str | None:
    x = image(w)
    if x is None:
        return None
    shape, t = shape_of(w, x)
    kernel = tuple(w.random.randrange(1, min(n, 3) + 1) for n in shape[1:])
    weight = w.array((w.one(1, 2), shape[0], *kernel), t, low=-1.0, high=1.0)
    how = w.one("", ", stride=2", ", padding=1", ', padding="same"', ", dilation=2, padding=2")
    bias = w.chance(0.3)
    if bias:
        weight = w.array((2, shape[0], *kernel), t, low=-1.0, high=1.0)
    return f"lf.conv({x}, {weight}{', ' + w.array((2,), t) if bias else ''}{how})"


@template(0.2)
def conv_transpose(w: Writer) -> str | None:
    x = image(w)
    if x is None:
        return None
    shape, t = shape_of(w, x)
    kernel = tuple(w.random.randrange(1, 3) for _ in shape[1:])
    how = w.one("", ", stride=2", ", stride=2, output_padding=1", ", dilation=2")
    return f"lf.conv_transpose({x}, {w.array((shape[0], w.one(1, 2), *kernel), t, low=-1.0, high=1.0)}{how})"


@template(0.3)
def max_pool(w: Writer) -> str | None:
    x = image(w)
    if x is None or w.special:
        return None
    n = len(shape_of(w, x)[0]) - 1
    kernel = w.one((2,) * n, (1,) * n, (3,) + (2,) * (n - 1))
    return f"lf.max_pool({x}, {kernel}{w.one('', ', stride=1', ', padding=1', ', ceil_mode=True')})"


@template(0.3)
def avg_pool(w: Writer) -> str | None:
    x = image(w)
    if x is None:
        return None
    n = len(shape_of(w, x)[0]) - 1
    how = w.one(
        "",
        ", stride=1",
        ", padding=1",
        ", ceil_mode=True",
        ", padding=1, count_include_pad=False",
        ", divisor_override=3",
    )
    return f"lf.avg_pool({x}, {w.one((2,) * n, (1,) * n)}{how})"


@template(0.2)
def adaptive_avg_pool(w: Writer) -> str | None:
    x = image(w)
    if x is None:
        return None
    n = len(shape_of(w, x)[0]) - 1
    return f"lf.adaptive_avg_pool({x}, {w.one((2,) * n, (1,) * n, (3,) * n, (None,) * n)})"


@template(0.2)
def windows(w: Writer) -> str | None:
    x = w.pick(lambda n: n.ndim in (1, 2) and 1 < n.size < 16)
    if x is None:
        return None
    fill = ", fill=1.5" if w.node(x).dtype.kind == "f" else ""
    return f"lf.windows({x}, (2,){w.one('', ', stride=2', ', padding=1' + fill, ', dilation=2')})"


@template(0.2)
def fold_windows(w: Writer) -> str | None:
    x = w.real(lambda n: n.ndim == 1 and 1 < n.size < 12)
    if x is None:
        return None
    n = w.node(x).size
    return f"lf.fold_windows(lf.windows({x}, (2,)), ({n},), (2,))"


# Linear systems.


def square(w: Writer) -> str | None:
    """A square matrix that is far from singular."""
    a = w.real(lambda n: n.ndim == 2 and 0 < n.shape[0] == n.shape[1] < 5 and n.dtype.itemsize > 2)
    if a is None or w.special:
        return None
    n, t = w.node(a).shape[0], w.node(a).dtype.name
    return f'(lf.tanh({a}) + np.eye({n}, dtype="{t}") * {n + 1})'


def systems(name: str) -> Any:
    def write(w: Writer) -> str | None:
        a = square(w)
        if a is None:
            return None
        if name == "solve":
            n = w.node(a.split(")")[0].split("(")[-1]).shape[0]
            t = a.split('"')[1]
            b = w.real(lambda v: v.ndim in (1, 2) and v.shape[0] == n and v.dtype.name == t) or w.array((n,), t)
            return f"lf.solve({a}, {b})"
        return {
            "slogdet": f"lf.slogdet({a})[{w.one(0, 1, 1)}]",
            "eigh": w.one(f"lf.eigh({a})[0]", f"lf.square(lf.eigh({a})[1])"),
            "svd": f"lf.svd({a})[1]",
        }.get(name, f"lf.{name}({a})")

    return write


for _name in ("inv", "solve", "det", "slogdet", "cholesky", "eigh", "svd"):
    template(0.1, _name)(systems(_name))


# Positions and losses.


@template(1.2)
def embedding(w: Writer) -> str | None:
    table = "E" if "E" in w.names else w.real(lambda n: n.ndim > 0 and n.shape[0] > 0)
    if table is None:
        return None
    n = w.node(table).shape[0]
    many = f"integers({w.seed_text()}, {n}, {w.one(1, 2, 3)})"
    return w.one(
        f"lf.embedding({table}, {w.index(n)})", f"lf.embedding({table}, {w.index(n)})", f"lf.embedding({table}, {many})"
    )


@template(0.4)
def take(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 0 and min(n.shape) > 0)
    if a is None:
        return None
    axis = w.axis(w.node(a))
    n = w.node(a).shape[axis]
    index = w.one(f"integers({w.seed_text()}, {n}, 2)", f"[0, {n - 1}, -1]", f"lf.argmax({a}, axis={axis})")
    return w.one(f"lf.take({a}, {index}, axis={axis})", f"{a}[[0, {w.node(a).shape[0] - 1}]]")


@template(0.5)
def pick(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 0 and n.shape[-1] > 0)
    if a is None:
        return None
    n = w.node(a).shape[-1]
    return w.one(
        f"lf.pick({a}, {w.index(n)})", f"lf.pick({a}, lf.argmax({a}[0] if {a}.ndim > 1 else {a}))", f"lf.pick({a}, -1)"
    )


@template(0.2)
def take_along_axis(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim > 0 and min(n.shape) > 0)
    if a is None:
        return None
    axis = w.axis(w.node(a))
    return f"lf.take_along_axis({a}, lf.argsort({a}, axis={axis}), axis={axis})"


@template(0.15)
def argsort(w: Writer) -> str | None:
    a = w.pick(lambda n: n.ndim > 0)
    return a and f"lf.argsort({a}, axis={w.axis(w.node(a))})"


@template(0.2)
def one_hot(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim == 1 and n.size > 0)
    kind = f'dtype="{w.dtype}"'
    return w.one(f"lf.one_hot({w.index(3)}, 3, {kind})", a and f"lf.one_hot(lf.argmax({a}), {w.node(a).size}, {kind})")


@template(0.2)
def scatter(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim > 0 and n.shape[0] > 0)
    return a and f"lf.scatter({a}, integers({w.seed_text()}, 4, {w.node(a).shape[0]}), 4)"


def segments(name: str) -> Any:
    def write(w: Writer) -> str | None:
        a = w.real(lambda n: n.ndim > 0 and n.shape[0] > 0)
        return a and f"lf.{name}({a}, integers({w.seed_text()}, 3, {w.node(a).shape[0]}), {w.one(3, 4)})"

    return write


for _name in ("segment_sum", "segment_mean", "segment_max", "segment_softmax"):
    template(0.12, _name)(segments(_name))


@template(0.15)
def topk(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim > 0 and min(n.shape) > 0)
    if a is None or w.special:
        return None
    axis = w.axis(w.node(a))
    k = w.random.randrange(1, w.node(a).shape[axis] + 1)
    return w.one(f"lf.topk({a}, {k}, axis={axis})[{w.one(0, 0, 1)}]", f"lf.kmax_pool({a}, {k}, axis={axis})")


def classes(name: str) -> Any:
    def write(w: Writer) -> str | None:
        a = w.real(lambda n: 0 < n.ndim < 3 and n.shape[-1] > 0)
        if a is None:
            return None
        n = w.node(a)
        scores = f"lf.log_softmax({a})" if name == "nll" and w.chance(0.6) else a
        target = w.index(n.shape[-1]) if n.ndim == 1 else f"integers({w.seed_text()}, {n.shape[-1]}, {n.shape[0]})"
        how = w.one("", "", ', reduction="sum"', ', reduction="none"')
        if name == "hinge" and w.chance(0.3):
            how += ", margin=0.5"
        return f"lf.{name}({scores}, {target}{how})"

    return write


for _name, _weight in {"cross_entropy": 0.8, "nll": 0.3, "hinge": 0.25}.items():
    template(_weight, _name)(classes(_name))


def pairs(name: str) -> Any:
    def write(w: Writer) -> str | None:
        a = w.real(lambda n: n.ndim > (name == "soft_cross_entropy"))
        if a is None:
            return None
        n = w.node(a)
        target = (
            w.like(a)
            if name in ("mse", "huber") and w.chance(0.6)
            else w.array(n.shape, n.dtype.name, low=0.0, high=1.0)
        )
        if name == "soft_cross_entropy":
            target = f"lf.softmax({w.like(a)})" if w.chance(0.5) else target
        how = w.one("", "", ', reduction="sum"', ', reduction="none"')
        how += ", delta=0.5" if name == "huber" and w.chance(0.4) else ""
        return f"lf.{'cross_entropy' if name == 'soft_cross_entropy' else name}({a}, {target}{how})"

    return write


for _name in ("mse", "bce_with_logits", "huber", "soft_cross_entropy"):
    template(0.25, _name)(pairs(_name))


@template(0.2)
def binary_cross_entropy(w: Writer) -> str | None:
    a = w.real()
    if a is None or w.special:
        return None
    n = w.node(a)
    target = w.array(n.shape, n.dtype.name, low=0.0, high=1.0)
    how = w.one("", ', reduction="sum"', ', reduction="none"')
    return f"lf.nn.functional.binary_cross_entropy(lf.tanh({a}) * 0.4 + 0.5, {target}{how})"


# Random numbers.


def randomly(text: str) -> Any:
    def write(w: Writer) -> str | None:
        n = w.one("", "2", "3")
        return text.format(shape=f"({n},)" if n else "()", dtype=w.one("", f', dtype="{w.dtype}"'))

    return write


for _name, _text in {
    "uniform": "lf.uniform({shape}{dtype})",
    "normal": "lf.normal({shape}, 0.5, 0.25{dtype})",
    "gumbel": "lf.gumbel({shape}{dtype})",
    "bernoulli": "lf.bernoulli(0.4, {shape}{dtype})",
}.items():
    template(0.08, _name)(randomly(_text))


@template(0.3)
def dropout(w: Writer) -> str | None:
    a = w.real(lambda n: not isinstance(n, Parameter))
    if a is None:
        return None
    return w.one(
        f"lf.dropout({a}, 0.5)", f"lf.dropout({a}, 0.25, axis=0)" if w.node(a).ndim else f"lf.dropout({a}, 0.1)"
    )


@template(0.06)
def categorical(w: Writer) -> str | None:
    a = w.real(lambda n: n.ndim == 1 and n.size > 0)
    return a and w.one(f"lf.categorical({a})", f"lf.sample({a})", f"lf.sample({a}, temperature=0.5)")


# Numbers of other kinds.


@template(0.15)
def integer(w: Writer) -> str | None:
    n = w.one(2, 3, 4)
    kind = w.one("int64", "int64", "int32", "int8")
    return f'lf.constant(integers({w.seed_text()}, {n}, {w.one(2, 3)}, dtype="{kind}"))'


@template(0.3)
def constant(w: Writer) -> str | None:
    shape = w.one((), (3,), (2, 3), (1,))
    return f"lf.constant({w.array(shape)})" if math.prod(shape) else None
