"""The adder convolution as a function, with the paper's gradients."""

import functools
import numbers

import keras
import tensorflow as tf

from keras_adder import sysconfig
from keras_adder._typing import IntOrPair
from keras_adder._typing import Padding
from keras_adder._typing import Tensor

_library = sysconfig.load_library()

FILTER_GRADIENTS = ("full_precision", "sign")

_DTYPES = ("float16", "bfloat16", "float32", "float64")

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
        _int_or_pair(strides, "strides"),
        _standardize_padding(padding),
        _standardize_data_format(data_format),
        _int_or_pair(dilation_rate, "dilation_rate"),
        _standardize_filter_gradient(filter_gradient),
        _standardize_output_dtype(output_dtype),
    )
    # Keras's own way: placeholders take a place in a functional model.
    is_symbolic = keras.utils.is_keras_tensor
    if is_symbolic(inputs) or is_symbolic(filters):
        return AdderConv2DOperation(*arguments).symbolic_call(inputs, filters)
    return _cached_operation(*arguments).call(inputs, filters)


@keras.saving.register_keras_serializable(package="keras_adder")
class AdderConv2DOperation(keras.Operation):
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
        super().__init__(name=name)
        self.strides = _pair(strides, "strides")
        self.padding = _standardize_padding(padding)
        self.data_format = _standardize_data_format(data_format)
        self.dilation_rate = _pair(dilation_rate, "dilation_rate")
        self.filter_gradient = _standardize_filter_gradient(filter_gradient)
        self.output_dtype = _standardize_output_dtype(output_dtype)
        self._attributes = self._make_attributes()
        # Of shapes and dtypes that were checked.
        self._result_dtypes: dict[tuple, tf.DType] = {}

    def call(self, inputs: Tensor, filters: Tensor) -> Tensor:
        if not isinstance(
            inputs, (tf.Tensor, tf.SparseTensor, tf.RaggedTensor)
        ):
            inputs = keras.ops.convert_to_tensor(inputs)
        if not isinstance(filters, tf.Tensor):
            filters = keras.ops.convert_to_tensor(filters)
        return _library.keras_adder_adder_conv2d(
            input=inputs,
            filter=filters,
            output_type=self._checked_result_dtype(inputs, filters),
            **self._attributes,
        )

    def _checked_result_dtype(self, inputs, filters):
        """The result's DType (with a string, eager execution takes a detour).

        Checks take as long as the rest of a small operation, and an eager loop
        asks for the same ones again.
        """
        dense = isinstance(inputs, tf.Tensor) and isinstance(filters, tf.Tensor)
        if not (dense and tf.executing_eagerly()):
            self._check(inputs, filters)
            return tf.as_dtype(self._result_dtype(inputs))
        key = inputs.shape, inputs.dtype, filters.shape, filters.dtype
        result = self._result_dtypes.get(key)
        if result is None:
            self._check(inputs, filters)
            result = tf.as_dtype(self._result_dtype(inputs))
            if len(self._result_dtypes) >= _CACHED:
                self._result_dtypes.clear()
            self._result_dtypes[key] = result
        return result

    def compute_output_spec(
        self, inputs: Tensor, filters: Tensor
    ) -> keras.KerasTensor:
        self._check(inputs, filters)
        channels_last = self.data_format == "channels_last"
        size = self._output_sizes(inputs, filters)
        channels = (filters.shape[3],)
        shape = size + channels if channels_last else channels + size
        return keras.KerasTensor(
            (inputs.shape[0],) + shape, dtype=self._result_dtype(inputs)
        )

    def _output_sizes(self, inputs, filters):
        """Height and width of the result, `None` where they are unknown."""
        channels_last = self.data_format == "channels_last"
        spatial = inputs.shape[1:3] if channels_last else inputs.shape[2:4]
        return tuple(
            self._output_size(axis, spatial, filters.shape) for axis in (0, 1)
        )

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

    def _check(self, inputs, filters):
        _check_tensor("inputs", inputs)
        _check_tensor("filters", filters)
        dtype = keras.utils.standardize_dtype(inputs.dtype)
        filters_dtype = keras.utils.standardize_dtype(filters.dtype)
        if dtype != filters_dtype:
            raise ValueError(
                "`filters` must have the dtype of `inputs`. Received: "
                f"inputs of {dtype}, filters of {filters_dtype}"
            )
        self._output_sizes(inputs, filters)
        channels = inputs.shape[3 if self.data_format == "channels_last" else 1]
        filter_channels, filter_count = filters.shape[2:]
        if channels is None or filter_channels is None or filter_count is None:
            return
        if filter_channels < 1 or channels < 1 or channels % filter_channels:
            raise ValueError(
                "The input channels of `filters` must divide the channels of "
                f"`inputs`. Received: inputs of shape {tuple(inputs.shape)} "
                f"with data_format={self.data_format!r}, filters of shape "
                f"{tuple(filters.shape)}"
            )
        if filter_count % (channels // filter_channels):
            raise ValueError(
                "The number of groups must divide the output channels of "
                f"`filters`. Received: {channels // filter_channels} groups, "
                f"filters of shape {tuple(filters.shape)}"
            )

    def _result_dtype(self, inputs):
        dtype = keras.utils.standardize_dtype(inputs.dtype)
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

    def _make_attributes(self):
        """The attributes of the compiled op, in TensorFlow's form."""
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
            "filter_gradient": self.filter_gradient,
        }


# Operations are costly to make, and an eager loop asks for the same ones again.
# Typed, so that True is not taken for 1.
@functools.lru_cache(maxsize=_CACHED, typed=True)
def _cached_operation(*arguments):
    return AdderConv2DOperation(*arguments)


def _check_tensor(name, tensor):
    if isinstance(tensor, (tf.SparseTensor, tf.RaggedTensor)):
        raise ValueError(
            f"`{name}` must be a dense tensor. Received: {name}={tensor}"
        )
    dtype = keras.utils.standardize_dtype(tensor.dtype)
    if dtype not in _DTYPES:
        raise ValueError(
            f"`{name}` must be a tensor of one of the dtypes {_DTYPES}. "
            f"Received: dtype={dtype}"
        )
    shape = tensor.shape
    rank = shape.rank if isinstance(shape, tf.TensorShape) else len(shape)
    if rank != 4:
        raise ValueError(
            f"`{name}` must be a tensor of rank 4. Received: shape={shape}"
        )


def _is_int(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _int_or_pair(value, name):
    return value if isinstance(value, int) else _pair(value, name)


def _pair(value, name):
    pair = (value, value) if _is_int(value) else value
    if (
        not isinstance(pair, (tuple, list))
        or len(pair) != 2
        or not all(_is_int(v) and 0 < v < 2**31 for v in pair)
    ):
        raise ValueError(
            f"`{name}` must be a positive int or a pair of positive ints. "
            f"Received: {name}={value!r}"
        )
    return tuple(int(v) for v in pair)


def _standardize_padding(padding):
    if isinstance(padding, str) and padding.lower() in ("valid", "same"):
        return padding.lower()
    if not isinstance(padding, str):
        try:
            pairs = tuple(tuple(pair) for pair in padding)
        except TypeError:
            pairs = ()
        if (
            len(pairs) == 2
            and all(len(pair) == 2 for pair in pairs)
            and all(_is_int(v) and 0 <= v < 2**31 for v in pairs[0] + pairs[1])
        ):
            return tuple(tuple(int(v) for v in pair) for pair in pairs)
    raise ValueError(
        '`padding` must be "valid", "same" or a pair of pairs of non-negative '
        f"ints ((top, bottom), (left, right)). Received: padding={padding!r}"
    )


def _standardize_data_format(data_format):
    if data_format is None:
        return keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            '`data_format` must be "channels_last" or "channels_first". '
            f"Received: data_format={data_format!r}"
        )
    return data_format


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
