"""What the fused adder layers share: weights, epilogue and checks."""

from typing import Any

import keras

from keras_adder import _arguments
from keras_adder._typing import Shape
from keras_adder._typing import Tensor
from keras_adder.ops import FusedAdderConv2DOperation
from keras_adder.ops import fused_adder_conv2d

FILTER_DTYPES = ("uint8", "int16", "float32")
# Not int32, which is of the distances alone: there are always a multiplier and
# an offset here.
OUTPUT_DTYPES = ("float32", "uint8", "int16")

_EPILOGUE = (
    "lower",
    "upper",
    "input_scale",
    "input_zero_point",
    "residual_scale",
    "residual_zero_point",
    "output_dtype",
    "output_scale",
    "output_zero_point",
)


class FusedAdderLayer(keras.layers.Layer):
    """A layer that calls `fused_adder_conv2d` with weights of its own.

    Args:
        geometry: dict, the arguments of `fused_adder_conv2d` that say where the
            filters go.
        filter_dtype: dtype of the kernel.
        **kwargs: The other arguments of `fused_adder_conv2d` that are no
            tensors, and keyword arguments of `keras.layers.Layer`.
    """

    def __init__(
        self, *, geometry: dict[str, Any], filter_dtype: str, **kwargs: Any
    ) -> None:
        epilogue = {name: kwargs.pop(name) for name in _EPILOGUE}
        super().__init__(**kwargs)
        # Integers are what they are; floats are computed in float32, whatever
        # the policy: a scale in half precision would be another scale.
        self.autocast = False
        # The op has no XLA kernel; with this, Keras's `jit_compile="auto"`
        # does not try one.
        self.supports_jit = False
        # It checks them, and has them in one form.
        operation = FusedAdderConv2DOperation(**geometry, **epilogue)
        for name in (*geometry, *_EPILOGUE):
            setattr(self, name, getattr(operation, name))
        self.filter_dtype = _arguments.one_of_dtypes(
            filter_dtype, "filter_dtype", FILTER_DTYPES
        )
        _arguments.one_of_dtypes(
            self.output_dtype, "output_dtype", OUTPUT_DTYPES
        )
        _arguments.check_quantization(
            "input", self.filter_dtype, self.input_scale, self.input_zero_point
        )
        self._call_names = tuple(geometry) + _EPILOGUE

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update({"filter_dtype": self.filter_dtype})
        config.update({name: getattr(self, name) for name in _EPILOGUE})
        return config

    def _add_weights(self, kernel_shape, filters):
        _arguments.check_sums(kernel_shape, self.filter_dtype)
        self.kernel = self._add_weight(
            "kernel", kernel_shape, self.filter_dtype, "zeros"
        )
        self.multiplier = self._add_weight(
            "multiplier", (filters,), "float32", "ones"
        )
        self.offset = self._add_weight("offset", (filters,), "float32", "zeros")

    def _add_weight(self, name, shape, dtype, initializer):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            autocast=False,
        )

    def _fused(self, inputs, kernel, residual):
        return fused_adder_conv2d(
            inputs,
            kernel,
            self.multiplier,
            self.offset,
            residual,
            **self._call_arguments(),
        )

    def _operation(self):
        return FusedAdderConv2DOperation(**self._call_arguments())

    def _call_arguments(self):
        return {name: getattr(self, name) for name in self._call_names}

    def _symbolic_kernel(self, kernel_shape):
        return keras.KerasTensor(kernel_shape, dtype=self.filter_dtype)


def as_float32(tensor: Tensor, name: str) -> Tensor:
    """Brings floats to the one dtype of floats that the op takes."""
    _arguments.check_dense(name, tensor)
    if tensor is None or tensor.dtype == "float32":
        return tensor
    if not keras.backend.is_float_dtype(tensor.dtype):
        return tensor
    if keras.utils.is_keras_tensor(tensor):
        return keras.KerasTensor(tensor.shape, dtype="float32")
    return keras.ops.cast(tensor, "float32")


def known_channels(shape: Shape, axis: int, name: str) -> int:
    channels = shape[axis]
    if channels is None:
        raise ValueError(
            f"The channels of the inputs of `{name}` must be known. "
            f"Received: inputs of shape {shape}"
        )
    return channels
