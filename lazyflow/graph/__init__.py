"""From roots to flat arrays: what is computed, once, and what of different length is computed together."""
