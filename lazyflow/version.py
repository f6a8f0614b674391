"""The version, of which an install reads nothing but this file."""

__version__ = "0.1.0"
