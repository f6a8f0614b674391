"""Kernels in CUDA C: the text of every step of a formula, and operations on rows.

What is fused is printed by `lazyflow.fuse.cuda`, of the same scalar code that the CPU's machine reads. Nothing here
needs a GPU: the text is compiled when a kernel is first launched, by NVRTC, and kept in CuPy's cache of files.
"""
