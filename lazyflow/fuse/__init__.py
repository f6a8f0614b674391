"""Fused kernels: one loop for a chain of elementwise operations, from their scalar formulas.

`scalar` is the intermediate representation. `blocks` prints it as NumPy calls over blocks of rows that stay in cache,
`machine` hands it to the compiled core.
"""
