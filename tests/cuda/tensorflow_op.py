"""Runs a `gpu_interface.Convolution` by the TensorFlow op."""

import tensorflow as tf

from keras_adder.ops import adder_conv2d


def run(convolution, data):
    """The output and both gradients, on the device in force."""
    x, f = (tf.cast(array, convolution.dtype) for array in (data.x, data.f))
    g = tf.cast(data.g, convolution.result_dtype)
    padding = convolution.padding
    first = convolution.data_format == "NCHW"
    with tf.GradientTape() as tape:
        tape.watch([x, f])
        y = adder_conv2d(
            x,
            f,
            strides=convolution.strides,
            padding=padding.lower() if isinstance(padding, str) else padding,
            data_format="channels_first" if first else "channels_last",
            dilation_rate=convolution.dilations,
            filter_gradient="sign" if convolution.sign else "full_precision",
            output_dtype=convolution.result_dtype,
        )
    return (y, *tape.gradient(y, [x, f], output_gradients=g))
