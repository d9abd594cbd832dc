import math
from typing import Any

import keras

from keras_adder import _arguments
from keras_adder._typing import Shape
from keras_adder._typing import Tensor
from keras_adder.layers.fused_adder_layer import FusedAdderLayer
from keras_adder.layers.fused_adder_layer import as_float32
from keras_adder.layers.fused_adder_layer import known_channels


@keras.saving.register_keras_serializable(package="keras_adder")
class FusedAdderDense(FusedAdderLayer):
    """Densely-connected adder layer of integers, for inference.

    It is to a `keras_adder.AdderDense` and what follows it as
    `keras_adder.layers.FusedAdderConv2D` is to a `keras_adder.AdderConv2D`:
    with the negated l1 distances of `AdderDense`,

    `y = -sum_k |inputs(k) - kernel(k)| * multiplier + offset + residual`,
    `outputs = minimum(maximum(y, lower), upper)`,

    rounded to integers if `output_dtype` is one of integers. It computes them
    as a convolution of images of one pixel, with the same operation.

    Args:
        units: Positive integer, dimensionality of the output space.
        filter_dtype: string, the dtype of the kernel: `"uint8"`, `"int16"` or
            `"float32"`.
        lower: float, the least value of an output before it is rounded, such
            as 0 for a ReLU. `None` is no bound.
        upper: float, the greatest value, likewise.
        input_scale: float, the step between two integers of the inputs and the
            kernel. Inputs of floats are rounded to them.
        input_zero_point: int, the integer of the inputs and the kernel that
            stands for zero.
        residual_scale: float, that of a residual of integers.
        residual_zero_point: int, that of a residual of integers.
        output_dtype: string, the dtype of the outputs: `"float32"`, `"uint8"`
            or `"int16"`.
        output_scale: float, that of outputs of integers.
        output_zero_point: int, that of outputs of integers.
        **kwargs: Base layer keyword arguments, such as `name`.

    Call arguments:
        inputs: tensor of the dtype of the kernel, or of floats, of rank 2 or
            more.
        residual: tensor to add, of the shape of the outputs, of uint8, int16 or
            floats. `None` adds nothing.

    Input shape:
        N-D tensor with shape: `(batch_size, ..., input_dim)`.

    Output shape:
        N-D tensor with shape: `(batch_size, ..., units)`.

    Weights, none of them trainable:

    - `kernel`, of `filter_dtype` and of shape `(input_dim, units)`, zeros at
        first
    - `multiplier`, of float32 and of shape `(units,)`, ones at first
    - `offset`, of float32 and of shape `(units,)`, zeros at first

    Raises:
        ValueError: when an argument is not one of those above, and when the
            distances of integers could leave int32: with more than 8,421,504
            inputs of uint8, or 32,768 of int16.
        LookupError: when the layer is to be differentiated.

    Example:

    >>> x = np.random.randint(0, 256, (4, 128)).astype("uint8")
    >>> y = keras_adder.layers.FusedAdderDense(32)(x)
    >>> print(y.shape, y.dtype)
    (4, 32) <dtype: 'float32'>
    """

    def __init__(
        self,
        units: int,
        filter_dtype: str = "uint8",
        lower: float | None = None,
        upper: float | None = None,
        input_scale: float = 1.0,
        input_zero_point: int = 0,
        residual_scale: float = 1.0,
        residual_zero_point: int = 0,
        output_dtype: str = "float32",
        output_scale: float = 1.0,
        output_zero_point: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            geometry={"data_format": "channels_last"},
            filter_dtype=filter_dtype,
            lower=lower,
            upper=upper,
            input_scale=input_scale,
            input_zero_point=input_zero_point,
            residual_scale=residual_scale,
            residual_zero_point=residual_zero_point,
            output_dtype=output_dtype,
            output_scale=output_scale,
            output_zero_point=output_zero_point,
            **kwargs,
        )
        self.units = _arguments.positive_int(units, "units")
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape: Shape) -> None:
        channels = known_channels(input_shape, -1, self.name)
        self.input_spec = keras.layers.InputSpec(
            min_ndim=2, axes={-1: channels}
        )
        self._add_weights((channels, self.units), self.units)

    def call(self, inputs: Tensor, residual: Tensor | None = None) -> Tensor:
        inputs = as_float32(inputs, "inputs")
        residual = as_float32(residual, "residual")
        leading_shape = keras.ops.shape(inputs)[:-1]
        count = math.prod(leading_shape)
        channels, units = self.kernel.shape
        if residual is not None:
            self._check_residual(inputs, residual)
            residual = keras.ops.reshape(residual, (count, 1, 1, units))
        outputs = self._fused(
            keras.ops.reshape(inputs, (count, 1, 1, channels)),
            keras.ops.reshape(self.kernel, (1, 1, channels, units)),
            residual,
        )
        return keras.ops.reshape(outputs, leading_shape + (units,))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def compute_output_spec(
        self, inputs: Tensor, residual: Tensor | None = None
    ) -> keras.KerasTensor:
        channels = known_channels(inputs.shape, -1, self.name)
        kernel = self._symbolic_kernel((1, 1, channels, self.units))
        if residual is not None:
            residual = as_float32(residual, "residual")
            self._check_residual(inputs, residual)
            residual = _one_pixel(residual, self.units)
        # What it refuses.
        self._operation().compute_output_spec(
            _one_pixel(as_float32(inputs, "inputs"), channels),
            kernel,
            residual=residual,
        )
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.output_dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update({"units": self.units})
        return config

    def _check_residual(self, inputs, residual):
        """Of one that is reshaped, the op no longer sees the shape."""
        expected = self.compute_output_shape(tuple(inputs.shape))
        _arguments.check_shape("residual", residual.shape, expected)


def _one_pixel(tensor, channels):
    return keras.KerasTensor((None, 1, 1, channels), dtype=tensor.dtype)
