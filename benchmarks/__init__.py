"""What lazyflow is measured with, and what it is measured against. ``python -m benchmarks`` lists the benchmarks."""
