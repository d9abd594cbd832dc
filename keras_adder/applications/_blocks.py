"""The blocks that the models are made of, as AdderNet or as CNN."""

import keras

from keras_adder.layers import AdderConv2D
from keras_adder.layers import AdderDense


def conv_block(
    x,
    filters,
    kernel_size,
    adder,
    strides=1,
    padding="same",
    use_bias=False,
    activation="relu",
    name=None,
):
    """A convolution, batch normalization and, if given, an activation.

    Where a convolution with strides pads, it pads both sides alike, as PyTorch
    and the authors do; Keras's "same" would favour the right and the bottom.
    """
    if strides > 1 and padding == "same":
        padding = "valid"
        if kernel_size > 1:
            pad = keras.layers.ZeroPadding2D(
                kernel_size // 2, name=f"{name}_pad"
            )
            x = pad(x)
    convolution = AdderConv2D if adder else keras.layers.Conv2D
    x = convolution(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        name=f"{name}_conv",
    )(x)
    return _normalize(x, channel_axis(), activation, name)


def dense_block(x, units, adder, activation="relu", name=None):
    """A dense layer, batch normalization and, if given, an activation."""
    dense = AdderDense if adder else keras.layers.Dense
    x = dense(units, use_bias=False, name=f"{name}_dense")(x)
    return _normalize(x, -1, activation, name)


def basic_block(x, filters, adder, strides, conv_shortcut, name):
    """The residual block of two 3x3 convolutions."""
    shortcut = x
    if conv_shortcut:
        shortcut = _shortcut(x, filters, adder, strides, name)
    x = conv_block(x, filters, 3, adder, strides, name=f"{name}_1")
    x = conv_block(x, filters, 3, adder, activation=None, name=f"{name}_2")
    return _add(shortcut, x, name)


def bottleneck_block(x, filters, adder, strides, conv_shortcut, name):
    """The residual block of 1x1, 3x3 and 1x1 convolutions, strided in the 3x3.

    The last one, and the shortcut, have four times as many filters.
    """
    shortcut = x
    if conv_shortcut:
        shortcut = _shortcut(x, 4 * filters, adder, strides, name)
    x = conv_block(x, filters, 1, adder, name=f"{name}_1")
    x = conv_block(x, filters, 3, adder, strides, name=f"{name}_2")
    x = conv_block(x, 4 * filters, 1, adder, activation=None, name=f"{name}_3")
    return _add(shortcut, x, name)


def residual_stack(
    x, block, filters, blocks, adder, strides, conv_shortcut=True, name=None
):
    """Residual blocks of equal width, the first one with the strides.

    `conv_shortcut` says whether that first one changes the shape.
    """
    x = block(x, filters, adder, strides, conv_shortcut, f"{name}_block1")
    for i in range(2, blocks + 1):
        x = block(x, filters, adder, 1, False, f"{name}_block{i}")
    return x


def plain_stack(x, filters, kernel_size, adder, first_adder, name):
    """Two convolutions and a 2x2 pooling."""
    x = conv_block(x, filters, kernel_size, first_adder, name=f"{name}_1")
    x = conv_block(x, filters, kernel_size, adder, name=f"{name}_2")
    return keras.layers.MaxPooling2D(2, name=f"{name}_pool")(x)


def residual_top(x, classes, activation, use_bias):
    """The classifier of the authors' ResNets, which is ordinary.

    An average over all positions, a 1x1 convolution and a batch normalization.
    """
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)
    x = conv_block(
        x,
        classes,
        1,
        adder=False,
        use_bias=use_bias,
        activation=None,
        name="fc",
    )
    x = keras.layers.Flatten(name="flatten")(x)
    return predictions(x, activation)


def predictions(x, activation):
    """The activation of the logits, which are batch normalized."""
    return keras.layers.Activation(activation, name="predictions")(x)


def channel_axis():
    channels_first = keras.config.image_data_format() == "channels_first"
    return 1 if channels_first else -1


def _shortcut(x, filters, adder, strides, name):
    return conv_block(
        x, filters, 1, adder, strides, activation=None, name=f"{name}_0"
    )


def _add(shortcut, x, name):
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.Activation("relu", name=f"{name}_out")(x)


def _normalize(x, axis, activation, name):
    # PyTorch's defaults, in Keras's terms, which the authors train with.
    x = keras.layers.BatchNormalization(
        axis=axis, momentum=0.9, epsilon=1e-5, name=f"{name}_bn"
    )(x)
    if activation is None:
        return x
    return keras.layers.Activation(activation, name=f"{name}_{activation}")(x)
