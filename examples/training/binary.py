"""Binary neural networks: signs in place of activations and of weights.

The paper's third column, a small baseline after XNOR-Net (Rastegari et al.,
ECCV 2016, https://arxiv.org/abs/1603.05279): activations become their signs,
and the weights of a filter become theirs times one scale, the mean of their
absolute values. The scaling of activations, which the authors found to matter
little, is left out.

The sign has no useful derivative; its straight-through estimator is that of
`clip(x, -1, 1)`.
"""

import keras
from keras import ops

from training import runs


@keras.saving.register_keras_serializable(package="training")
class BinaryConv2D(keras.layers.Conv2D):
    """2D convolution of the signs of its inputs by binary filters.

    Zero padding pads the signs: at the border there are taps of value 0.

    Args: those of `keras.layers.Conv2D`.
    """

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(sign(inputs), binary_filters(kernel))


@keras.saving.register_keras_serializable(package="training")
class BinaryDense(keras.layers.Dense):
    """Dense layer of the signs of its inputs and of binary weights.

    Args: those of `keras.layers.Dense`.
    """

    def call(self, inputs):
        x = ops.matmul(sign(inputs), binary_filters(self.kernel))
        if self.use_bias:
            x = ops.add(x, self.bias)
        return self.activation(x)


def sign(x):
    """The sign of `x`, 1 of zero, with the gradient of `clip(x, -1, 1)`."""
    signs = ops.where(ops.greater_equal(x, 0), 1.0, -1.0)
    signs = ops.cast(signs, x.dtype)
    clipped = ops.clip(x, -1, 1)
    # The difference is 0, exactly.
    return ops.stop_gradient(signs) + (clipped - ops.stop_gradient(clipped))


def binary_filters(kernel):
    """Signs of filters, times the mean absolute value of each filter.

    The filters are along the last axis. Through the scale, every weight also
    receives a share of the gradient of its whole filter.
    """
    axes = tuple(range(len(kernel.shape) - 1))
    return sign(kernel) * ops.mean(ops.abs(kernel), axes, keepdims=True)


def binarise(model):
    """The binary twin of a CNN of `keras_adder.applications`.

    Convolutions and dense layers become binary, but for the first and the
    last. A ReLU would leave them no sign to see, so only the last of them is
    kept: the sign is the nonlinearity. Everything else stays where it is, also
    the poolings, which XNOR-Net has before the batch normalisation.

    Args:
        model: `keras.Model`, built with `adder=False`.

    Returns:
        A new `keras.Model`, freshly initialized.

    Raises:
        RunError: If the model has depthwise convolutions.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            raise runs.RunError(
                f"There is no BNN of {model.name}: depthwise convolutions have "
                "no binary form here. Choose another model or network."
            )
    weighted = [layer for layer in model.layers if type(layer) in BINARY]
    activations = [layer for layer in model.layers if _is_relu(layer)]
    binary = {layer.name for layer in weighted[1:-1]}
    dropped = {layer.name for layer in activations[:-1]}

    def clone(layer):
        config = layer.get_config()
        if layer.name in binary:
            return BINARY[type(layer)].from_config(config)
        if layer.name in dropped:
            config["activation"] = "linear"
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=clone)


BINARY = {keras.layers.Conv2D: BinaryConv2D, keras.layers.Dense: BinaryDense}


def _is_relu(layer):
    return (
        isinstance(layer, keras.layers.Activation)
        and layer.activation is keras.activations.relu
    )
