"""What programs use besides lazyflow and NumPy; its text stands above a program that is printed."""

import numpy as np


def data(seed, *shape, dtype="float32", low=-2.0, high=2.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def integers(seed, n, *shape, dtype="int64"):
    return np.random.default_rng(seed).integers(0, n, shape).astype(dtype)


def special(seed, *shape, dtype="float32"):
    tiny = float(np.finfo(dtype).smallest_subnormal)
    chosen = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, tiny, -3 * tiny, 30.0, -30.0]
    return np.random.default_rng(seed).choice(chosen, shape).astype(dtype)


def rows(n, make):
    """``n`` values, each recorded on its own (on the reference, they are one)."""
    return [make() for _ in range(n)]
