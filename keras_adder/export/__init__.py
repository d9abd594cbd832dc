"""Models of adder layers for where this package is not installed."""

from keras_adder.export.portable import to_portable

__all__ = ["to_portable"]
