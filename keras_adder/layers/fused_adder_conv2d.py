from typing import Any

import keras

from keras_adder import _arguments
from keras_adder._typing import IntOrPair
from keras_adder._typing import Padding
from keras_adder._typing import Shape
from keras_adder._typing import Tensor
from keras_adder.layers.fused_adder_layer import FusedAdderLayer
from keras_adder.layers.fused_adder_layer import as_float32
from keras_adder.layers.fused_adder_layer import known_channels


@keras.saving.register_keras_serializable(package="keras_adder")
class FusedAdderConv2D(FusedAdderLayer):
    """2D adder convolution of integers, with what follows it, for inference.

    It is what becomes of a `keras_adder.AdderConv2D`, the batch normalization
    behind it, the residual connection and the ReLU when a trained model is
    prepared to be fast: one layer that reads its inputs once, measures
    distances between small integers, and writes its outputs once,

    `y = adder_conv2d(inputs, kernel) * multiplier + offset + residual`,
    `outputs = minimum(maximum(y, lower), upper)`,

    rounded to integers if `output_dtype` is one of integers. An integer `q`
    stands for the real number `(q - zero_point) * scale`. Inputs and kernel
    share scale and zero point; that scale is to be part of `multiplier`.
    `keras_adder.ops.fused_adder_conv2d` says how each step is rounded.

    The layer cannot be trained: its weights are set, not learned, and it has no
    gradient. It runs on CPUs. Its dtypes are those of its arguments whatever
    `dtype` policy it is given; floats of other dtypes are cast to float32.

    Args:
        filters: int, the dimension of the output space (the number of filters
            in the convolution).
        kernel_size: int or tuple/list of 2 integer, specifying the size of the
            convolution window.
        strides: int or tuple/list of 2 integer, specifying the stride length
            of the convolution.
        padding: string, either `"valid"` or `"same"` (case-insensitive), or a
            pair of pairs `((top, bottom), (left, right))` of zeros to add on
            each side, none larger than the dilated kernel.
        data_format: string, either `"channels_last"` or `"channels_first"`.
            The ordering of the dimensions in the inputs. It defaults to the
            `image_data_format` value found in your Keras config file at
            `~/.keras/keras.json`. If you never set it, then it will be
            `"channels_last"`.
        dilation_rate: int or tuple/list of 2 integers, specifying the dilation
            rate to use for dilated convolution.
        groups: A positive int specifying the number of groups in which the
            input is split along the channel axis. Input channels and `filters`
            must both be divisible by `groups`.
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
        inputs: 4D tensor of the dtype of the kernel, or of floats.
        residual: tensor to add, of the shape of the outputs, of uint8, int16 or
            floats. `None` adds nothing.

    Input shape:

    - If `data_format="channels_last"`:
        A 4D tensor with shape: `(batch_size, height, width, channels)`
    - If `data_format="channels_first"`:
        A 4D tensor with shape: `(batch_size, channels, height, width)`

    Output shape:

    - If `data_format="channels_last"`:
        A 4D tensor with shape: `(batch_size, new_height, new_width, filters)`
    - If `data_format="channels_first"`:
        A 4D tensor with shape: `(batch_size, filters, new_height, new_width)`

    Weights, none of them trainable:

    - `kernel`, of `filter_dtype` and of shape
        `kernel_size + (channels // groups, filters)`, zeros at first
    - `multiplier`, of float32 and of shape `(filters,)`, ones at first
    - `offset`, of float32 and of shape `(filters,)`, zeros at first

    Raises:
        ValueError: when an argument is not one of those above, and when the
            distances of integers could leave int32: with more than 8,421,504
            taps and channels to a filter of uint8, or 32,768 of int16.
        LookupError: when the layer is to be differentiated.

    Example:

    >>> x = np.random.randint(0, 256, (4, 10, 10, 128)).astype("uint8")
    >>> layer = keras_adder.layers.FusedAdderConv2D(
    ...     32, 3, output_dtype="uint8", output_scale=1500.0,
    ...     output_zero_point=255)
    >>> y = layer(x)
    >>> print(y.shape, y.dtype)
    (4, 8, 8, 32) <dtype: 'uint8'>
    """

    def __init__(
        self,
        filters: int,
        kernel_size: IntOrPair,
        strides: IntOrPair = (1, 1),
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: IntOrPair = (1, 1),
        groups: int = 1,
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
            geometry={
                "strides": strides,
                "padding": padding,
                "data_format": data_format,
                "dilation_rate": dilation_rate,
            },
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
        self.filters = _arguments.positive_int(filters, "filters")
        self.kernel_size = _arguments.pair(kernel_size, "kernel_size")
        self.groups = _arguments.positive_int(groups, "groups")
        if self.filters % self.groups:
            raise ValueError(
                "`groups` must divide `filters`. "
                f"Received: groups={groups}, filters={filters}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: Shape) -> None:
        kernel_shape = self._kernel_shape(input_shape)
        # Before weights of whatever size are made.
        self._operation().compute_output_shape(input_shape, kernel_shape)
        axis = self._channel_axis()
        self.input_spec = keras.layers.InputSpec(
            ndim=4, axes={axis: input_shape[axis]}
        )
        self._add_weights(kernel_shape, self.filters)

    def call(self, inputs: Tensor, residual: Tensor | None = None) -> Tensor:
        return self._fused(
            as_float32(inputs, "inputs"),
            self.kernel,
            as_float32(residual, "residual"),
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self._operation().compute_output_shape(
            input_shape, self._kernel_shape(input_shape)
        )

    def compute_output_spec(
        self, inputs: Tensor, residual: Tensor | None = None
    ) -> keras.KerasTensor:
        kernel = self._symbolic_kernel(self._kernel_shape(inputs.shape))
        return self._operation().compute_output_spec(
            as_float32(inputs, "inputs"),
            kernel,
            residual=as_float32(residual, "residual"),
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            {
                "filters": self.filters,
                "kernel_size": self.kernel_size,
                "strides": self.strides,
                "padding": self.padding,
                "data_format": self.data_format,
                "dilation_rate": self.dilation_rate,
                "groups": self.groups,
            }
        )
        return config

    def _channel_axis(self):
        return 3 if self.data_format == "channels_last" else 1

    def _kernel_shape(self, input_shape):
        channels = known_channels(input_shape, self._channel_axis(), self.name)
        if channels % self.groups:
            raise ValueError(
                "`groups` must divide the channels of the inputs. Received: "
                f"groups={self.groups}, inputs of shape {input_shape} with "
                f"data_format={self.data_format!r}"
            )
        return (*self.kernel_size, channels // self.groups, self.filters)
