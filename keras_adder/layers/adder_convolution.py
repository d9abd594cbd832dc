"""What the adder layers share that move filters over their inputs."""

from typing import Any

import keras
import tensorflow as tf

from keras_adder._typing import Tensor
from keras_adder.layers.adder_layer import AdderLayer


class AdderConvolution(AdderLayer):
    """Mix-in that turns a Keras convolution into an adder layer.

    A subclass has a method `convolution_op(inputs, *kernels)`, the layer
    without bias and activation.
    """

    def call(self, inputs: Tensor) -> Tensor:
        kernels = (getattr(self, name) for name in self.KERNELS)
        outputs = self.convolution_op(*self._promote(inputs, *kernels))
        if self.use_bias:
            # Keras's layers add by `keras.ops.add`, which with channels first
            # takes a width equal to `filters` for the channels.
            outputs = tf.nn.bias_add(
                outputs,
                keras.ops.cast(self.bias, outputs.dtype),
                "NC..." if self.data_format == "channels_first" else "N...C",
            )
        if self.activation is not None:
            return self.activation(outputs)
        return outputs


def check_padding(
    padding: Any, allowed: tuple[str, ...] = ("valid", "same")
) -> None:
    """Refuses lists, which Keras takes without a word; strings it checks."""
    if not isinstance(padding, str):
        raise ValueError(
            f"The `padding` argument must be one of {allowed}. "
            f"Received: padding={padding}"
        )
