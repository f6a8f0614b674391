"""A few losses of one weight, that differ by a number."""

import numpy as np

import lazyflow as lf


def vector(n):
    return lf.constant(np.ones(n, np.float32))


def losses(weight, examples=4):
    return lf.mean([lf.sum(lf.tanh(weight @ vector(3)) * k) for k in range(examples)])
