"""The decorator cell: a body is traced once, cut into steps, and run for many calls together."""
