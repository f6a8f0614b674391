"""Fused kernels: one loop for a chain of elementwise operations, from their scalar formulas.

`scalar` is the intermediate representation, `blocks` and `compiled` print it: as NumPy calls over blocks of rows that
stay in cache, and as one loop that numba compiles.
"""
