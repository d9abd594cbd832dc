"""The adder convolution as a function, with the paper's gradients.

And, for models that are no longer trained, one of small integers that goes
through what follows it as well.
"""

import functools
import math

import keras
import numpy as np
import tensorflow as tf

from keras_adder import _arguments
from keras_adder import sysconfig
from keras_adder._typing import IntOrPair
from keras_adder._typing import Padding
from keras_adder._typing import Shape
from keras_adder._typing import Tensor

_library = sysconfig.load_library()

FILTER_GRADIENTS = ("full_precision", "sign")

_DTYPES = ("float16", "bfloat16", "float32", "float64")

_FUSED_DTYPES = ("float32", "uint8", "int16")
_FUSED_OUTPUTS = (*_FUSED_DTYPES, "int32")

# A multiplier, or an offset, that was left out.
_NOTHING = np.zeros(0, np.float32)

# Operations, and signatures of each, that eager execution remembers.
_CACHED = 256

# Attributes that an op and its gradients share; types follow from the inputs.
_GEOMETRY = (
    "strides",
    "padding",
    "explicit_paddings",
    "data_format",
    "dilations",
)


def adder_conv2d(
    inputs: Tensor,
    filters: Tensor,
    strides: IntOrPair = 1,
    padding: Padding = "valid",
    data_format: str | None = None,
    dilation_rate: IntOrPair = 1,
    filter_gradient: str = "full_precision",
    output_dtype: str | None = None,
) -> Tensor:
    """Negated l1 distance between filters and the patches under them.

    The operation of an AdderNet ("AdderNet: Do We Really Need Multiplications
    in Deep Learning?", CVPR 2020, equation 2), which needs additions only:

        Y(m, n, t) = -sum_ijk |X(m + i, n + j, k) - F(i, j, k, t)|

    It is used as `keras.ops.conv` is used for images. Padding is real zeros: a
    padded tap contributes `-|0 - F|`.

    Its gradients are the paper's, which are deliberately not the derivatives of
    the l1 distance: `dY/dF = X - F` (equation 5) and
    `dY/dX = HardTanh(F - X)` (equation 6). There is no second derivative:
    asking for one raises a `LookupError`.

    Args:
        inputs: 4D float tensor (float16, bfloat16, float32 or float64). Half
            precision is summed in float32.
        filters: 4D tensor of shape
            `(height, width, in_channels / groups, out_channels)` and of the
            dtype of `inputs`. As in `tf.nn.conv2d` there are as many groups as
            its third dimension goes into the channels of `inputs`.
        strides: int or pair of ints, the step between patches in pixels.
        padding: `"valid"`, `"same"` (case-insensitive), or a pair of pairs
            `((top, bottom), (left, right))` of zeros to add on each side, none
            larger than the dilated filter.
        data_format: `"channels_last"` or `"channels_first"`, the place of the
            channels in `inputs` and in the result. Defaults to
            `keras.config.image_data_format()`.
        dilation_rate: int or pair of ints, the distance between filter taps in
            pixels.
        filter_gradient: `"full_precision"`, or `"sign"` for the paper's
            ablation `dY/dF = sign(X - F)`.
        output_dtype: dtype of the result. Defaults to the dtype of `inputs`;
            `"float32"` is also possible for float16 and bfloat16 inputs, whose
            distances, often in the thousands, lose most of their bits when they
            are rounded back.

    Returns:
        4D tensor of shape `(batch, new_height, new_width, out_channels)` with
        `data_format="channels_last"`, or
        `(batch, out_channels, new_height, new_width)` with
        `data_format="channels_first"`. No element is positive.

    Raises:
        ValueError: if an argument is not one of the above, or if shapes or
            dtypes do not fit each other.

    Example:

    >>> x = tf.random.normal((4, 10, 10, 3))
    >>> filters = tf.random.normal((3, 3, 3, 16))
    >>> keras_adder.ops.adder_conv2d(x, filters, padding="same").shape
    TensorShape([4, 10, 10, 16])
    """
    # What can be a key of a cache; the operation itself sees to the rest.
    arguments = (
        _arguments.int_or_pair(strides, "strides"),
        _arguments.standardize_padding(padding),
        _arguments.standardize_data_format(data_format),
        _arguments.int_or_pair(dilation_rate, "dilation_rate"),
        _standardize_filter_gradient(filter_gradient),
        _standardize_output_dtype(output_dtype),
    )
    # Keras's own way: placeholders take a place in a functional model.
    is_symbolic = keras.utils.is_keras_tensor
    if is_symbolic(inputs) or is_symbolic(filters):
        return AdderConv2DOperation(*arguments).symbolic_call(inputs, filters)
    operation = _cached_operation(AdderConv2DOperation, *arguments)
    return operation.call(inputs, filters)


def fused_adder_conv2d(
    inputs: Tensor,
    filters: Tensor,
    multiplier: Tensor | None = None,
    offset: Tensor | None = None,
    residual: Tensor | None = None,
    strides: IntOrPair = 1,
    padding: Padding = "valid",
    data_format: str | None = None,
    dilation_rate: IntOrPair = 1,
    input_scale: float = 1.0,
    input_zero_point: int = 0,
    residual_scale: float = 1.0,
    residual_zero_point: int = 0,
    lower: float | None = None,
    upper: float | None = None,
    output_dtype: str = "float32",
    output_scale: float = 1.0,
    output_zero_point: int = 0,
) -> Tensor:
    """Adder convolution of integers, and all that follows it, in one pass.

    For inference. It computes the distances of `adder_conv2d`, of integers as
    a rule, and takes them through a batch normalization, a residual connection
    and a ReLU before it writes them once, rounded to integers if so wanted:

        distances = adder_conv2d(inputs, filters)
        y = distances * multiplier + offset + residual
        y = minimum(maximum(y, lower), upper)
        outputs = saturate(round(y / output_scale) + output_zero_point)

    An integer `q` of a tensor stands for the real number
    `(q - zero_point) * scale`, as in "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference" (CVPR 2018,
    equation 1). Inputs and filters share scale and zero point, as in "AdderNet
    and its Minimalist Hardware Design for Energy-Efficient Artificial
    Intelligence" (arXiv:2101.10015): then the zero points cancel out, and the
    distance of two integers, times that scale, is the distance of the numbers
    that they stand for. The operation does not multiply by it: the scale
    belongs into `multiplier`.

    Distances of integers are summed in int32, exactly. What follows is in
    float32 in the order above, each step rounded by itself, so that equal
    integers give equal results, bit by bit, on every processor.
    Floats become integers as
    `saturate(round(x * (1 / scale)) + zero_point)`, with the reciprocal rounded
    to float32 first; `round` takes halves to the even neighbour, and NaN
    becomes the lowest integer.

    There is no gradient: asking for one raises a `LookupError`. There is no
    kernel for GPUs.

    Args:
        inputs: 4D tensor of float32, uint8 or int16. Floats meet integer
            `filters` as integers of their dtype, of `input_scale` and
            `input_zero_point`.
        filters: 4D tensor of shape
            `(height, width, in_channels / groups, out_channels)`, of the dtype
            of `inputs`, or of uint8 or int16 for inputs of float32.
        multiplier: tensor of shape `(out_channels,)`, converted to float32.
            Without it distances are multiplied by nothing.
        offset: tensor of shape `(out_channels,)`, converted to float32.
            Without it nothing is added.
        residual: 4D tensor of the shape of the result, of float32, uint8 or
            int16, to add.
        strides: int or pair of ints, the step between patches in pixels.
        padding: `"valid"`, `"same"` (case-insensitive), or a pair of pairs
            `((top, bottom), (left, right))` of zeros to add on each side, none
            larger than the dilated filter. Integer filters meet
            `input_zero_point` there, which stands for zero.
        data_format: `"channels_last"` or `"channels_first"`, the place of the
            channels in `inputs`, `residual` and the result. Defaults to
            `keras.config.image_data_format()`.
        dilation_rate: int or pair of ints, the distance between filter taps in
            pixels.
        input_scale: float, the step between two integers of `inputs` and
            `filters`.
        input_zero_point: int, the integer of `inputs` and `filters` that
            stands for zero.
        residual_scale: float, that of an integer `residual`.
        residual_zero_point: int, that of an integer `residual`.
        lower: float, the least value before rounding, such as 0 for a ReLU.
            `None` is no bound.
        upper: float, the greatest value, likewise.
        output_dtype: dtype of the result: `"float32"`; `"uint8"` or `"int16"`,
            rounded by `output_scale` and `output_zero_point`; or `"int32"` for
            the exact distances of integers, with nothing behind them.
        output_scale: float, that of an integer result.
        output_zero_point: int, that of an integer result.

    Returns:
        4D tensor of `output_dtype`, of the shape that `adder_conv2d` gives.

    Raises:
        ValueError: if an argument is not one of the above, if shapes or dtypes
            do not fit each other, if a scale or a zero point is given for a
            tensor of floats, or if filters are so large that their distances
            could leave int32: of uint8, more than 8,421,504 differences to
            each; of int16, more than 32,768.

    Example:

    >>> x = tf.cast(tf.random.uniform((4, 10, 10, 3), 0, 256), "uint8")
    >>> filters = tf.cast(tf.random.uniform((3, 3, 3, 16), 0, 256), "uint8")
    >>> y = keras_adder.ops.fused_adder_conv2d(
    ...     x, filters, multiplier=tf.fill((16,), 0.05), offset=tf.ones(16),
    ...     lower=-60, output_dtype="uint8", output_zero_point=60)
    >>> y.shape, y.dtype
    (TensorShape([4, 8, 8, 16]), tf.uint8)
    """
    # What can be a key of a cache; the operation itself sees to the rest.
    arguments = (
        _arguments.int_or_pair(strides, "strides"),
        _arguments.standardize_padding(padding),
        _arguments.standardize_data_format(data_format),
        _arguments.int_or_pair(dilation_rate, "dilation_rate"),
        input_scale,
        input_zero_point,
        residual_scale,
        residual_zero_point,
        lower,
        upper,
        output_dtype,
        output_scale,
        output_zero_point,
    )
    tensors = (inputs, filters, multiplier, offset, residual)
    if any(keras.utils.is_keras_tensor(tensor) for tensor in tensors):
        return FusedAdderConv2DOperation(*arguments).symbolic_call(*tensors)
    try:
        operation = _cached_operation(FusedAdderConv2DOperation, *arguments)
    except TypeError:  # What cannot be a key is no number either, and refused.
        operation = FusedAdderConv2DOperation(*arguments)
    return operation.call(*tensors)


class _ConvolutionOperation(keras.Operation):
    """The geometry of a convolution, checked once, and what was checked.

    A subclass says in `_check` what tensors it takes.
    """

    def __init__(self, strides, padding, data_format, dilation_rate, name):
        super().__init__(name=name)
        self.strides = _arguments.pair(strides, "strides")
        self.padding = _arguments.standardize_padding(padding)
        self.data_format = _arguments.standardize_data_format(data_format)
        self.dilation_rate = _arguments.pair(dilation_rate, "dilation_rate")
        # Of shapes and dtypes that were checked.
        self._result_dtypes: dict[tuple, tf.DType] = {}

    def _check(self, *tensors):
        """Refuses tensors that do not fit; the dtype of the result of others.

        A tensor that may be left out is `None` then.
        """
        raise NotImplementedError

    def _checked_result_dtype(self, *tensors):
        """The result's DType (with a string, eager execution takes a detour).

        Checks take as long as the rest of a small operation, and an eager loop
        asks for the same ones again.
        """
        dense = all(isinstance(t, (tf.Tensor, type(None))) for t in tensors)
        if not (dense and tf.executing_eagerly()):
            return tf.as_dtype(self._check(*tensors))
        key = tuple(t if t is None else (t.shape, t.dtype) for t in tensors)
        result = self._result_dtypes.get(key)
        if result is None:
            result = tf.as_dtype(self._check(*tensors))
            if len(self._result_dtypes) >= _CACHED:
                self._result_dtypes.clear()
            self._result_dtypes[key] = result
        return result

    def compute_output_shape(
        self, input_shape: Shape, filter_shape: Shape
    ) -> Shape:
        channels_last = self.data_format == "channels_last"
        spatial = input_shape[1:3] if channels_last else input_shape[2:4]
        size = tuple(
            self._output_size(axis, spatial, filter_shape) for axis in (0, 1)
        )
        self._check_channels(input_shape, filter_shape)
        channels = (filter_shape[3],)
        shape = size + channels if channels_last else channels + size
        return (input_shape[0],) + shape

    def _output_size(self, axis, spatial, filter_shape):
        size, kernel = spatial[axis], filter_shape[axis]
        if size is None or kernel is None:
            return None
        stride = self.strides[axis]
        if self.padding == "same":
            return -(-size // stride)
        dilated = (kernel - 1) * self.dilation_rate[axis] + 1
        if self.padding != "valid":
            if max(self.padding[axis]) > dilated:
                raise ValueError(
                    "`padding` must not exceed the dilated filters. Received: "
                    f"padding={self.padding}, dilated filters of {dilated}"
                )
            size += sum(self.padding[axis])
        if size + stride < dilated:
            raise ValueError(
                "`inputs` must not be smaller than the dilated filters. "
                f"Received: {size} padded pixels, dilated filters of {dilated}"
            )
        return (size - dilated + stride) // stride

    def _check_channels(self, input_shape, filter_shape):
        channels_last = self.data_format == "channels_last"
        channels = input_shape[3 if channels_last else 1]
        filter_channels, filter_count = filter_shape[2:]
        if channels is None or filter_channels is None or filter_count is None:
            return
        if filter_channels < 1 or channels < 1 or channels % filter_channels:
            raise ValueError(
                "The input channels of `filters` must divide the channels of "
                f"`inputs`. Received: inputs of shape {tuple(input_shape)} "
                f"with data_format={self.data_format!r}, filters of shape "
                f"{tuple(filter_shape)}"
            )
        if filter_count % (channels // filter_channels):
            raise ValueError(
                "The number of groups must divide the output channels of "
                f"`filters`. Received: {channels // filter_channels} groups, "
                f"filters of shape {tuple(filter_shape)}"
            )

    def _geometry(self):
        """Attributes of the compiled op, in TensorFlow's form."""
        channels_last = self.data_format == "channels_last"

        def all_axes(spatial, other):
            if channels_last:
                return [other, *spatial, other]
            return [other, other, *spatial]

        explicit = not isinstance(self.padding, str)
        pairs = all_axes(self.padding, (0, 0)) if explicit else []
        return {
            "strides": all_axes(self.strides, 1),
            "padding": "EXPLICIT" if explicit else self.padding.upper(),
            "explicit_paddings": [size for pair in pairs for size in pair],
            "data_format": "NHWC" if channels_last else "NCHW",
            "dilations": all_axes(self.dilation_rate, 1),
        }


@keras.saving.register_keras_serializable(package="keras_adder")
class AdderConv2DOperation(_ConvolutionOperation):
    """`adder_conv2d` with its arguments checked once."""

    def __init__(
        self,
        strides: IntOrPair = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: IntOrPair = 1,
        filter_gradient: str = "full_precision",
        output_dtype: str | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(strides, padding, data_format, dilation_rate, name)
        self.filter_gradient = _standardize_filter_gradient(filter_gradient)
        self.output_dtype = _standardize_output_dtype(output_dtype)
        self._attributes = {
            **self._geometry(),
            "filter_gradient": self.filter_gradient,
        }

    def call(self, inputs: Tensor, filters: Tensor) -> Tensor:
        inputs, filters = _as_tensor(inputs), _as_tensor(filters)
        return _library.keras_adder_adder_conv2d(
            input=inputs,
            filter=filters,
            output_type=self._checked_result_dtype(inputs, filters),
            **self._attributes,
        )

    def compute_output_spec(
        self, inputs: Tensor, filters: Tensor
    ) -> keras.KerasTensor:
        dtype = self._check(inputs, filters)
        shape = self.compute_output_shape(inputs.shape, filters.shape)
        return keras.KerasTensor(shape, dtype=dtype)

    def _check(self, inputs, filters):
        _arguments.check_tensor("inputs", inputs, _DTYPES)
        _arguments.check_tensor("filters", filters, _DTYPES)
        dtype = keras.utils.standardize_dtype(inputs.dtype)
        filters_dtype = keras.utils.standardize_dtype(filters.dtype)
        if dtype != filters_dtype:
            raise ValueError(
                "`filters` must have the dtype of `inputs`. Received: "
                f"inputs of {dtype}, filters of {filters_dtype}"
            )
        self.compute_output_shape(inputs.shape, filters.shape)
        return self._result_dtype(dtype)

    def _result_dtype(self, dtype):
        result = self.output_dtype or dtype
        if result == dtype:
            return result
        if dtype in ("float16", "bfloat16") and result == "float32":
            return result
        raise ValueError(
            "`output_dtype` must be the dtype of `inputs`, or 'float32' for "
            f"inputs of float16 or bfloat16. Received: output_dtype={result!r} "
            f"for inputs of {dtype}"
        )


@keras.saving.register_keras_serializable(package="keras_adder")
class FusedAdderConv2DOperation(_ConvolutionOperation):
    """`fused_adder_conv2d` with its arguments checked once."""

    def __init__(
        self,
        strides: IntOrPair = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: IntOrPair = 1,
        input_scale: float = 1.0,
        input_zero_point: int = 0,
        residual_scale: float = 1.0,
        residual_zero_point: int = 0,
        lower: float | None = None,
        upper: float | None = None,
        output_dtype: str = "float32",
        output_scale: float = 1.0,
        output_zero_point: int = 0,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(strides, padding, data_format, dilation_rate, name)
        self.input_scale = _arguments.standardize_scale(
            input_scale, "input_scale"
        )
        self.input_zero_point = _arguments.standardize_zero_point(
            input_zero_point, "input_zero_point"
        )
        self.residual_scale = _arguments.standardize_scale(
            residual_scale, "residual_scale"
        )
        self.residual_zero_point = _arguments.standardize_zero_point(
            residual_zero_point, "residual_zero_point"
        )
        self.lower, self.upper = _standardize_bounds(lower, upper)
        self.output_dtype = _arguments.one_of_dtypes(
            output_dtype, "output_dtype", _FUSED_OUTPUTS
        )
        self.output_scale = _arguments.standardize_scale(
            output_scale, "output_scale"
        )
        self.output_zero_point = _arguments.standardize_zero_point(
            output_zero_point, "output_zero_point"
        )
        self._check_quantization("output", self.output_dtype)
        self._attributes = {**self._geometry(), **self._epilogue()}

    def call(
        self,
        inputs: Tensor,
        filters: Tensor,
        multiplier: Tensor | None = None,
        offset: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        inputs, filters = _as_tensor(inputs), _as_tensor(filters)
        if multiplier is not None:
            multiplier = _as_tensor(multiplier, tf.float32)
        if offset is not None:
            offset = _as_tensor(offset, tf.float32)
        if residual is not None:
            residual = _as_tensor(residual)
        output_type = self._checked_result_dtype(
            inputs, filters, multiplier, offset, residual
        )
        return _library.keras_adder_fused_adder_conv2d(
            input=inputs,
            filter=filters,
            multiplier=_NOTHING if multiplier is None else multiplier,
            offset=_NOTHING if offset is None else offset,
            residual=[] if residual is None else [residual],
            output_type=output_type,
            **self._attributes,
        )

    def compute_output_spec(
        self,
        inputs: Tensor,
        filters: Tensor,
        multiplier: Tensor | None = None,
        offset: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> keras.KerasTensor:
        dtype = self._check(inputs, filters, multiplier, offset, residual)
        shape = self.compute_output_shape(inputs.shape, filters.shape)
        return keras.KerasTensor(shape, dtype=dtype)

    def _check(self, inputs, filters, multiplier, offset, residual):
        _arguments.check_tensor("inputs", inputs, _FUSED_DTYPES)
        _arguments.check_tensor("filters", filters, _FUSED_DTYPES)
        dtype = keras.utils.standardize_dtype(inputs.dtype)
        filters_dtype = keras.utils.standardize_dtype(filters.dtype)
        if dtype not in ("float32", filters_dtype):
            raise ValueError(
                "`filters` must have the dtype of `inputs`, or be of uint8 or "
                "int16 for inputs of float32. Received: "
                f"inputs of {dtype}, filters of {filters_dtype}"
            )
        self._check_quantization("input", filters_dtype)
        shape = self.compute_output_shape(inputs.shape, filters.shape)
        _arguments.check_sums(filters.shape, filters_dtype)
        for name, vector in (("multiplier", multiplier), ("offset", offset)):
            if vector is not None:
                _arguments.check_dense(name, vector)
                _arguments.check_shape(
                    name, getattr(vector, "shape", None), filters.shape[3:]
                )
        self._check_residual(residual, shape)
        if self.output_dtype == "int32":
            self._check_raw(filters_dtype, multiplier, offset, residual)
        return self.output_dtype

    def _check_residual(self, residual, shape):
        dtype = None
        if residual is not None:
            _arguments.check_tensor("residual", residual, _FUSED_DTYPES)
            _arguments.check_shape("residual", residual.shape, shape)
            dtype = keras.utils.standardize_dtype(residual.dtype)
        self._check_quantization("residual", dtype)

    def _check_quantization(self, name, dtype):
        _arguments.check_quantization(
            name,
            dtype,
            getattr(self, f"{name}_scale"),
            getattr(self, f"{name}_zero_point"),
        )

    def _check_raw(self, filters_dtype, *behind):
        bounds = (self.lower, self.upper)
        if filters_dtype == "float32" or any(
            value is not None for value in (*behind, *bounds)
        ):
            raise ValueError(
                "`output_dtype` may be 'int32' for integer filters alone, and "
                "with no multiplier, offset, residual or bounds. Received: "
                f"filters of {filters_dtype}, and (multiplier, offset, "
                f"residual) = {behind}, (lower, upper) = {bounds}"
            )

    def _epilogue(self):
        """Attributes of the compiled op for what follows the distances."""
        return {
            "input_scale": self.input_scale,
            "input_zero_point": self.input_zero_point,
            "residual_scale": self.residual_scale,
            "residual_zero_point": self.residual_zero_point,
            "lower": -math.inf if self.lower is None else self.lower,
            "upper": math.inf if self.upper is None else self.upper,
            "output_scale": self.output_scale,
            "output_zero_point": self.output_zero_point,
        }


def _standardize_bounds(lower, upper):
    lower = _arguments.standardize_bound(lower, "lower", -math.inf)
    upper = _arguments.standardize_bound(upper, "upper", math.inf)
    if None not in (lower, upper) and lower > upper:
        raise ValueError(
            "`lower` must not be greater than `upper`. "
            f"Received: lower={lower}, upper={upper}"
        )
    return lower, upper


# Operations are costly to make, and an eager loop asks for the same ones again.
# Typed, so that True is not taken for 1.
@functools.lru_cache(maxsize=_CACHED, typed=True)
def _cached_operation(operation, *arguments):
    return operation(*arguments)


def _as_tensor(value, dtype=None):
    if isinstance(value, tf.Tensor) and dtype in (None, value.dtype):
        return value
    # Which are refused with the rest, by name.
    if isinstance(value, (tf.SparseTensor, tf.RaggedTensor)):
        return value
    # Keras takes a variable for a tensor, whose checks would not be remembered.
    return tf.convert_to_tensor(keras.ops.convert_to_tensor(value, dtype))


def _standardize_filter_gradient(filter_gradient):
    if filter_gradient not in FILTER_GRADIENTS:
        raise ValueError(
            "`filter_gradient` must be one of "
            f"{FILTER_GRADIENTS}. Received: "
            f"filter_gradient={filter_gradient!r}"
        )
    return filter_gradient


def _standardize_output_dtype(output_dtype):
    if output_dtype is None:
        return None
    return keras.utils.standardize_dtype(output_dtype)


@tf.RegisterGradient("KerasAdder>AdderConv2D")
def _adder_conv2d_gradient(op, gradient):
    """The paper's gradients (equations 5 and 6), from ops of our own.

    Ops of our own rather than a stock convolution's gradient and a correction:
    they are right for groups, dilations and every dtype and layout, whatever
    TensorFlow was built with, equal from run to run, and have no derivative of
    their own that could be mistaken for a second derivative of this one.
    """
    inputs, filters = op.inputs
    arguments = (inputs, filters, gradient)
    geometry = _attributes(op, _GEOMETRY)
    mode = _attributes(op, ("filter_gradient",))
    # A tape names the inputs that nobody asked about, if any. Where both
    # gradients are wanted, one op computes them for less than two do;
    # `tf.gradients` does not tell, and prunes what was not wanted.
    tells = hasattr(op, "skip_input_indices")
    unwanted = tells and op.skip_input_indices or ()
    if tells and not unwanted:
        return _library.keras_adder_adder_conv2d_backprop(
            *arguments, **geometry, **mode
        )
    input_gradient = filter_gradient = None
    if 0 not in unwanted:
        input_gradient = _library.keras_adder_adder_conv2d_backprop_input(
            *arguments, **geometry
        )
    if 1 not in unwanted:
        filter_gradient = _library.keras_adder_adder_conv2d_backprop_filter(
            *arguments, **geometry, **mode
        )
    return input_gradient, filter_gradient


def _attributes(op, names):
    """Attributes of an op, as keyword arguments of another."""
    # A tape's stand-in for the op has them in one flat tuple. Its `get_attr`
    # copies lists element by element, which takes longer than a small gradient.
    flat = getattr(op, "attrs", None)
    if flat is None:
        return {name: op.get_attr(name) for name in names}
    values = dict(zip(flat[::2], flat[1::2]))
    return {name: values[name] for name in names}


@tf.RegisterGradient("KerasAdder>AdderConv2DBackprop")
@tf.RegisterGradient("KerasAdder>AdderConv2DBackpropInput")
@tf.RegisterGradient("KerasAdder>AdderConv2DBackpropFilter")
def _no_second_derivative(op, *gradients):
    raise LookupError(
        "The adder convolution has no second derivative: its gradients are "
        "the ones that the AdderNet paper defines for training, not the "
        "derivatives of a function. Received: a request to differentiate "
        f"{op.type}"
    )


@tf.RegisterGradient("KerasAdder>FusedAdderConv2D")
def _no_gradient(op, *gradients):
    raise LookupError(
        "The fused adder convolution has no gradient: its rounded integers "
        "have none. It is for inference; train the model that it was made "
        "from, of `keras_adder.AdderConv2D` layers, and optimize that again. "
        f"Received: a request to differentiate {op.type}"
    )
