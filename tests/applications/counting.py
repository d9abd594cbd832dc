"""What a model holds and costs: walked over its layers, and by formula."""

import math

import numpy as np


def images(*shape, dtype="float32"):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def kernels(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def multiplications(model):
    """Of the twin's convolutions and dense layers, from the layers' shapes."""
    return sum(
        math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in kernels(model)
    )


def trainable_parameters(model):
    return sum(math.prod(v.shape) for v in model.trainable_variables)


class Count:
    """Counts along a network of convolutions, each with BN, from its recipe.

    Attributes:
        multiplications: int, of the convolutions so far.
        parameters: int, trainable ones so far, those of the BNs included.
    """

    def __init__(self, size, channels):
        self.size = size
        self.channels = channels
        self.multiplications = 0
        self.parameters = 0

    def conv(self, filters, kernel, stride=1, bias=False):
        """A padded convolution; returns itself."""
        self.size = -(-self.size // stride)
        weights = kernel**2 * self.channels * filters
        self.multiplications += self.size**2 * weights
        self.parameters += weights + (filters if bias else 0) + 2 * filters
        self.channels = filters
        return self

    def pool(self, stride=2):
        self.size = -(-self.size // stride)
        return self

    def residual(self, convolutions, stride):
        """A block of (filters, kernel) pairs, strided in the first 3x3."""
        shortcut = Count(self.size, self.channels)
        changes = stride > 1 or self.channels != convolutions[-1][0]
        if changes:
            shortcut.conv(convolutions[-1][0], 1, stride)
        for filters, kernel in convolutions:
            self.conv(filters, kernel, stride if kernel == 3 else 1)
            stride = 1 if kernel == 3 else stride
        self.multiplications += shortcut.multiplications
        self.parameters += shortcut.parameters
        return self

    def classifier(self, classes, bias=False):
        """After an average over all positions."""
        self.size = 1
        return self.conv(classes, 1, bias=bias)

    def of(self, model):
        """The same two counts of a model, to compare with."""
        return multiplications(model), trainable_parameters(model)

    @property
    def both(self):
        return self.multiplications, self.parameters
