"""Functions that differentiate functions, and gradients that are expressions."""
