from typing import Any

import keras

from keras_adder._typing import Shape
from keras_adder._typing import Tensor
from keras_adder.layers.fused_adder_conv2d import FusedAdderConv2D


@keras.saving.register_keras_serializable(package="keras_adder")
class FusedAdderConv1D(FusedAdderConv2D):
    """1D adder convolution of integers, with what follows it, for inference.

    `keras_adder.inference.optimize` makes it of a `keras_adder.AdderConv1D`. It
    takes sequences for images of one row, and has the arguments and the weights
    of a `keras_adder.layers.FusedAdderConv2D` of these: `kernel_size=(1, 3)`.

    Input shape:

    - If `data_format="channels_last"`:
        A 3D tensor with shape: `(batch_size, steps, channels)`
    - If `data_format="channels_first"`:
        A 3D tensor with shape: `(batch_size, channels, steps)`

    Output shape:

    - If `data_format="channels_last"`:
        A 3D tensor with shape: `(batch_size, new_steps, filters)`
    - If `data_format="channels_first"`:
        A 3D tensor with shape: `(batch_size, filters, new_steps)`
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape: Shape) -> None:
        super().build(self._shape_of_images(input_shape))
        (channels,) = self.input_spec.axes.values()
        axis = 2 if self.data_format == "channels_last" else 1
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={axis: channels})

    def call(self, inputs: Tensor, residual: Tensor | None = None) -> Tensor:
        return self._sequences(
            super().call(self._images(inputs), self._images(residual))
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = super().compute_output_shape(self._shape_of_images(input_shape))
        row = row_axis(self.data_format)
        return shape[:row] + shape[row + 1 :]

    def compute_output_spec(
        self, inputs: Tensor, residual: Tensor | None = None
    ) -> keras.KerasTensor:
        return self._sequences(
            super().compute_output_spec(
                self._images(inputs), self._images(residual)
            )
        )

    def _shape_of_images(self, shape):
        row = row_axis(self.data_format)
        return (*shape[:row], 1, *shape[row:])

    def _images(self, tensor):
        if tensor is None:
            return None
        return keras.ops.expand_dims(tensor, row_axis(self.data_format))

    def _sequences(self, tensor):
        return keras.ops.squeeze(tensor, row_axis(self.data_format))


def row_axis(data_format: str) -> int:
    """Where sequences get the axis that makes images of one row of them."""
    return 1 if data_format == "channels_last" else 2
