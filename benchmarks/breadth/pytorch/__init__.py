"""The models of the breadth benchmark in PyTorch: for one example, and batched by hand."""
