from typing import Any

import keras

from keras_adder._typing import Tensor


@keras.saving.register_keras_serializable(package="keras_adder")
class Requantize(keras.layers.Layer):
    """Brings a tensor to integers of few levels.

    `keras_adder.inference.optimize` puts it before adder layers of less than 8
    bits, whose kernels are those of 8 bits and would round to all their levels:

    `output = clip(round(inputs / scale) + zero_point, 0, levels)`

    Args:
        scale: float, the step between levels.
        zero_point: int, the level of zero.
        levels: int, the highest level, at most 255.
        input_scale: float, likewise of inputs of type uint8.
        input_zero_point: int, likewise.
        **kwargs: Base layer keyword arguments, such as `name`.

    Input shape:
        Arbitrary; of a floating-point type or uint8.

    Output shape:
        That of the inputs; of type uint8.
    """

    def __init__(
        self,
        scale: float,
        zero_point: int,
        levels: int,
        input_scale: float = 1.0,
        input_zero_point: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.zero_point = zero_point
        self.levels = levels
        self.input_scale = input_scale
        self.input_zero_point = input_zero_point

    def call(self, inputs: Tensor) -> Tensor:
        x = keras.ops.cast(inputs, "float32")
        if not keras.backend.is_float_dtype(inputs.dtype):
            x = (x - self.input_zero_point) * self.input_scale
        x = keras.ops.round(x * (1 / self.scale)) + self.zero_point
        return keras.ops.cast(keras.ops.clip(x, 0, self.levels), "uint8")

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            {
                "scale": self.scale,
                "zero_point": self.zero_point,
                "levels": self.levels,
                "input_scale": self.input_scale,
                "input_zero_point": self.input_zero_point,
            }
        )
        return config
