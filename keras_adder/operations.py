"""What a model costs: a table of its layers' multiplications and additions."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras
import rich.box
import rich.markup
import rich.table

from keras_adder._calls import trace
from keras_adder._printing import print_text
from keras_adder._printing import render
from keras_adder._printing import title_line
from keras_adder.layers import AdderConv1D
from keras_adder.layers import AdderConv2D
from keras_adder.layers import AdderDense
from keras_adder.layers import AdderDepthwiseConv2D
from keras_adder.layers import AdderSeparableConv2D
from keras_adder.layers import FusedAdderConv1D
from keras_adder.layers import FusedAdderConv2D
from keras_adder.layers import FusedAdderDense

# Of a VIA Nano 2000, as the paper quotes them: cycles an operation.
CYCLES_PER_MULTIPLICATION = 4
CYCLES_PER_ADDITION = 2
# Of 32-bit floating-point numbers, 45 nm, 0.9 V: Horowitz, ISSCC 2014.
PICOJOULES_PER_MULTIPLICATION = 3.7
PICOJOULES_PER_ADDITION = 0.9


@dataclasses.dataclass(frozen=True)
class Operations:
    """Numbers of operations, and what they cost as floating-point ones.

    Attributes:
        multiplications: int.
        additions: int; subtractions and comparisons are counted as additions.
    """

    multiplications: int = 0
    additions: int = 0

    @property
    def cycles(self) -> int:
        """The paper's model of latency: 4 a multiplication, 2 an addition."""
        return (
            CYCLES_PER_MULTIPLICATION * self.multiplications
            + CYCLES_PER_ADDITION * self.additions
        )

    @property
    def microjoules(self) -> float:
        """Energy of the arithmetic alone: 3.7 pJ and 0.9 pJ an operation."""
        picojoules = (
            PICOJOULES_PER_MULTIPLICATION * self.multiplications
            + PICOJOULES_PER_ADDITION * self.additions
        )
        return picojoules / 1e6

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(
            self.multiplications + other.multiplications,
            self.additions + other.additions,
        )

    def __mul__(self, times: int) -> "Operations":
        return Operations(self.multiplications * times, self.additions * times)

    def as_dict(self) -> dict[str, Any]:
        return {
            "multiplications": self.multiplications,
            "additions": self.additions,
            "cycles": self.cycles,
            "microjoules": self.microjoules,
        }


@dataclasses.dataclass(frozen=True)
class Row:
    """One call of a layer.

    Attributes:
        name: string, the layer's name, after those of the models that it is
            nested in: `"backbone/conv1"`.
        layer_type: string, the name of the layer's class.
        output_shape: tuple of integers, without the batch; a list of them if
            the layer has more than one output.
        parameters: int, 0 from the second call of a layer on.
        operations: `Operations` for one image, or `None` if the rules do not
            say how many the layer takes.
        is_weighted: bool, whether it is a convolution or a dense layer, as
            adder layer or not: what the paper counts.
    """

    name: str
    layer_type: str
    output_shape: tuple | list
    parameters: int
    operations: Operations | None
    is_weighted: bool

    def as_dict(self) -> dict[str, Any]:
        operations = self.operations and self.operations.as_dict()
        return dataclasses.asdict(self) | {"operations": operations}


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `keras_adder.summary` returns.

    Attributes:
        name: string, the model's name.
        rows: list of `Row`, one for each call of a layer, in order.
        twin: `Summary` of the other model, or `None`.
    """

    name: str
    rows: list[Row]
    twin: "Summary | None" = None

    @property
    def parameters(self) -> int:
        """Number of all weights, trainable or not."""
        return sum(row.parameters for row in self.rows)

    @property
    def weighted(self) -> Operations:
        """`Operations` of convolutions and dense layers: the paper's count.

        An activation that is an argument of such a layer is counted with it.
        """
        return self._total(row for row in self.rows if row.is_weighted)

    @property
    def total(self) -> Operations:
        """`Operations` of all layers but the unknown ones."""
        return self._total(self.rows)

    @property
    def unknown(self) -> list[str]:
        """Names of the layers whose operations are not known."""
        return [row.name for row in self.rows if row.operations is None]

    def as_dict(self) -> dict[str, Any]:
        """Returns all of it as numbers, strings, lists and dicts, for JSON."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "weighted": self.weighted.as_dict(),
            "total": self.total.as_dict(),
            "unknown": self.unknown,
            "rows": [row.as_dict() for row in self.rows],
            "twin": self.twin and self.twin.as_dict(),
        }

    def __str__(self) -> str:
        return _render(self)

    @staticmethod
    def _total(rows: Iterable[Row]) -> Operations:
        known = (row.operations for row in rows if row.operations is not None)
        return sum(known, Operations())


def summary(
    model: keras.Model,
    twin: keras.Model | None = None,
    print_fn: Callable[[str], Any] | None = None,
) -> Summary:
    """Prints, and returns, what a model costs: its operations, layer by layer.

    Counted are the multiplications and additions for one image at inference, of
    floating-point numbers or, in fused layers, of integers, by these rules:

    - A sum of n terms takes n additions, since it starts from a bias or from
      zero. A subtraction and a comparison count as an addition; the maximum of
      n takes n - 1. An exponential and a division count as a multiplication.
      Absolute values, copies, padding and changes of shape are free.
    - Convolutions (also grouped, depthwise, separable and transposed) and dense
      layers take a multiplication and an addition for each element of the
      kernel at each position of the output (of a transposed one: of the
      input), also where the kernel lies in the padding.
    - Adder layers take two additions there and no multiplication.
    - Fused adder layers take, besides these, what follows the distances, for
      each element of the output: a multiplication by the multiplier, an
      addition of the offset and one of the residual, and one for each bound.
      To make an integer of a float, of the input or the output, takes a
      multiplication, and so does a float of a residual of integers; zero
      points, rounding and saturation are free.
    - A batch normalization takes one of each an element: a scale and a shift.
    - `Add` and its like take one an element for each input after the first.
    - Poolings, activations, `Rescaling` and `Normalization` follow from these
      rules; layers that do nothing at inference, such as `Dropout`, take
      nothing.

    The operations of any other layer, of functions of `keras.ops` and of
    subclasses of the layers above are unknown: the table says so, and the
    totals leave them out.

    There are two totals. The paper's is that of the convolutions and dense
    layers alone, to compare with its tables (fused ones with all that is in
    them); the other one is of all layers, and shows the multiplications that
    are left in an AdderNet, in its batch normalizations and its ordinary first
    and last layer.

    From the totals follow

    - cycles, the paper's model of latency: 4 for a multiplication and 2 for an
      addition, as on a VIA Nano 2000; and
    - the energy of the arithmetic (not of the memory, which may well take
      more): 3.7 pJ for a multiplication and 0.9 pJ for an addition, those of
      32-bit floating-point numbers in 45 nm. Small integers take less, so that
      of fused layers it is an upper bound.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), section 4.1
    - [Computing's energy problem (and what we can do about it)](
        https://doi.org/10.1109/ISSCC.2014.6757323) (Horowitz, ISSCC 2014)

    Args:
        model: A functional or sequential `keras.Model` that has been built,
            for images of a known size.
        twin: another such model, optional. Its totals are printed beside those
            of `model`, for example those of the CNN beside the AdderNet's.
        print_fn: function that is called with the table, a string. Defaults to
            `None`, which means `print`.

    Returns:
        A `keras_adder.operations.Summary`; its `as_dict()` is for JSON.

    Raises:
        TypeError: If `model` or `twin` is not a `keras.Model`.
        ValueError: If `model` or `twin` is subclassed or has not been built,
            or if a dimension of its input is `None`.

    Example:

    >>> from keras_adder.applications import LeNet5
    >>> table = keras_adder.summary(LeNet5(), twin=LeNet5(adder=False))
    >>> table.weighted.additions, table.twin.weighted.multiplications
    (833040, 416520)
    """
    result = _summarize(model)
    if twin is not None:
        result = dataclasses.replace(result, twin=_summarize(twin))
    (print_text if print_fn is None else print_fn)(str(result))
    return result


def _summarize(model):
    calls = trace(model)
    for tensor in model.inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                "The model must take images of a known size: build it with a "
                "static `input_shape`. Received: model with the input shape "
                f"{tuple(tensor.shape)}"
            )
    rows = []
    seen = set()
    for call in calls:
        is_first = id(call.layer) not in seen
        seen.add(id(call.layer))
        rows.append(_row(call, is_first))
    return Summary(model.name, rows)


def _row(call, is_first):
    layer = call.layer
    shapes = [tuple(tensor.shape[1:]) for tensor in call.outputs]
    operations = None
    if type(layer) in _RULES and not _is_altered(call):
        operations = _RULES[type(layer)](call)
    holds_weights = isinstance(layer, keras.Layer) and is_first
    return Row(
        name=call.name,
        layer_type=type(layer).__name__,
        output_shape=shapes[0] if len(shapes) == 1 else shapes,
        parameters=layer.count_params() if holds_weights else 0,
        operations=operations,
        is_weighted=type(layer) in _WEIGHTED_RULES,
    )


def _size(tensor):
    return math.prod(tensor.shape[1:])


def _is_altered(call):
    """Whether a layer computes otherwise than its class says, or on what."""
    layer = call.layer
    tensors = call.inputs + call.outputs
    return (
        getattr(layer, "quantization_mode", None) is not None
        or getattr(layer, "lora_enabled", False)
        or any(None in tensor.shape[1:] for tensor in tensors)
    )


def _products(multiplications, additions):
    """The rule of layers that put elements of kernels to inputs.

    Args:
        multiplications: int, how many an element at a position takes.
        additions: int, likewise.

    Returns:
        A function that returns such a rule, given one that returns, of a layer,
        the size of its kernels and the number of its output channels.
    """
    each = Operations(multiplications, additions)

    def rule_for(kernels_and_channels):
        def rule(call):
            size, channels = kernels_and_channels(call.layer)
            positions = _size(call.outputs[0]) // channels
            return _activated(each * (size * positions), call)

        return rule

    return rule_for


def _fused(call):
    """Distances, and what follows them in the same layer."""
    layer, outputs = call.layer, call.outputs[0]
    inputs, *residual = call.inputs
    bounds = [b for b in (layer.lower, layer.upper) if b is not None]
    taps = math.prod(layer.kernel.shape[:-1])
    each = Operations(
        1 + sum(map(_is_integer, (*residual, outputs))),
        2 * taps + 1 + len(residual) + len(bounds),
    )
    result = each * _size(outputs)
    if _is_integer(layer.kernel) and not _is_integer(inputs):
        result += Operations(multiplications=_size(inputs))
    return result


def _is_integer(tensor):
    return keras.backend.is_int_dtype(tensor.dtype)


def _transposed(call):
    kernel = call.layer.kernel
    positions = _size(call.inputs[0]) // kernel.shape[-1]
    times = math.prod(kernel.shape) * positions
    return _activated(Operations(times, times), call)


def _activated(operations, call):
    """Adds those of the layer's own activation; None if it is unknown."""
    activation = _activation(call)
    return None if activation is None else operations + activation


def _activation(call):
    function = call.layer.activation
    if function is keras.activations.softmax:
        return _softmax(call, axis=-1)
    if function not in _ACTIVATIONS:
        return None
    return _ACTIVATIONS[function] * _size(call.outputs[0])


def _softmax(call, axis):
    """A maximum, differences from it, exponentials, their sum, divisions."""
    size = _size(call.outputs[0])
    rows = size // call.outputs[0].shape[axis]
    return Operations(2 * size, 3 * size - rows)


def _softmax_layer(call):
    axis = call.layer.axis
    return _softmax(call, axis) if isinstance(axis, int) else None


def _relu(call):
    layer = call.layer
    each = Operations(
        multiplications=1 if layer.negative_slope else 0,
        additions=1 if layer.max_value is None else 2,
    )
    return each * _size(call.outputs[0])


def _elementwise(multiplications, additions):
    each = Operations(multiplications, additions)
    return lambda call: each * _size(call.outputs[0])


def _merge(multiplications, additions):
    """For each input after the first, to each element."""
    each = Operations(multiplications, additions)
    return lambda call: each * ((len(call.inputs) - 1) * _size(call.outputs[0]))


def _average(call):
    sums = _merge(0, 1)(call)
    return sums + Operations(multiplications=_size(call.outputs[0]))


def _max_pooling(call):
    window = math.prod(call.layer.pool_size)
    return Operations(additions=(window - 1) * _size(call.outputs[0]))


def _average_pooling(call):
    outputs = _size(call.outputs[0])
    return Operations(outputs, math.prod(call.layer.pool_size) * outputs)


def _global_max_pooling(call):
    return Operations(additions=_size(call.inputs[0]) - _size(call.outputs[0]))


def _global_average_pooling(call):
    return Operations(_size(call.outputs[0]), _size(call.inputs[0]))


def _up_sampling(call):
    nearest = getattr(call.layer, "interpolation", "nearest") == "nearest"
    return Operations() if nearest else None


def _free(call):
    return Operations()


def _kernel(channels):
    return lambda layer: (math.prod(layer.kernel.shape), channels(layer))


_filters = _kernel(lambda layer: layer.filters)
_units = _kernel(lambda layer: layer.units)
_depthwise = _kernel(lambda layer: math.prod(layer.kernel.shape[-2:]))


def _separable(layer):
    kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
    return sum(math.prod(kernel.shape) for kernel in kernels), layer.filters


_multiply_adds = _products(multiplications=1, additions=1)
_distances = _products(multiplications=0, additions=2)

_ACTIVATIONS = {
    keras.activations.linear: Operations(0, 0),
    keras.activations.relu: Operations(0, 1),
    keras.activations.relu6: Operations(0, 2),
    keras.activations.leaky_relu: Operations(1, 1),
    # An exponential, 1 more, a division.
    keras.activations.sigmoid: Operations(2, 1),
    # That of twice the input, doubled, and 1 less; to double is to add.
    keras.activations.tanh: Operations(2, 4),
    keras.activations.silu: Operations(3, 1),
    # ReLU6 of 3 more, times 1/6.
    keras.activations.hard_sigmoid: Operations(1, 3),
    keras.activations.hard_silu: Operations(2, 3),
}

_WEIGHTED_RULES = {
    AdderConv1D: _distances(_filters),
    AdderConv2D: _distances(_filters),
    AdderDense: _distances(_units),
    AdderDepthwiseConv2D: _distances(_depthwise),
    AdderSeparableConv2D: _distances(_separable),
    FusedAdderConv1D: _fused,
    FusedAdderConv2D: _fused,
    FusedAdderDense: _fused,
    keras.layers.Conv1D: _multiply_adds(_filters),
    keras.layers.Conv2D: _multiply_adds(_filters),
    keras.layers.Conv3D: _multiply_adds(_filters),
    keras.layers.Dense: _multiply_adds(_units),
    keras.layers.DepthwiseConv1D: _multiply_adds(_depthwise),
    keras.layers.DepthwiseConv2D: _multiply_adds(_depthwise),
    keras.layers.SeparableConv1D: _multiply_adds(_separable),
    keras.layers.SeparableConv2D: _multiply_adds(_separable),
    keras.layers.Conv1DTranspose: _transposed,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.Conv3DTranspose: _transposed,
}

# By the very class: what a subclass computes is not known.
_RULES = _WEIGHTED_RULES | {
    keras.layers.Activation: _activation,
    keras.layers.Add: _merge(0, 1),
    keras.layers.Average: _average,
    keras.layers.AveragePooling1D: _average_pooling,
    keras.layers.AveragePooling2D: _average_pooling,
    keras.layers.AveragePooling3D: _average_pooling,
    keras.layers.BatchNormalization: _elementwise(1, 1),
    keras.layers.GlobalAveragePooling1D: _global_average_pooling,
    keras.layers.GlobalAveragePooling2D: _global_average_pooling,
    keras.layers.GlobalAveragePooling3D: _global_average_pooling,
    keras.layers.GlobalMaxPooling1D: _global_max_pooling,
    keras.layers.GlobalMaxPooling2D: _global_max_pooling,
    keras.layers.GlobalMaxPooling3D: _global_max_pooling,
    keras.layers.LeakyReLU: _elementwise(1, 1),
    keras.layers.MaxPooling1D: _max_pooling,
    keras.layers.MaxPooling2D: _max_pooling,
    keras.layers.MaxPooling3D: _max_pooling,
    keras.layers.Maximum: _merge(0, 1),
    keras.layers.Minimum: _merge(0, 1),
    keras.layers.Multiply: _merge(1, 0),
    keras.layers.Normalization: _elementwise(1, 1),
    keras.layers.PReLU: _elementwise(1, 1),
    keras.layers.ReLU: _relu,
    keras.layers.Rescaling: _elementwise(1, 1),
    keras.layers.Softmax: _softmax_layer,
    keras.layers.Subtract: _merge(0, 1),
    keras.layers.UpSampling1D: _up_sampling,
    keras.layers.UpSampling2D: _up_sampling,
    keras.layers.UpSampling3D: _up_sampling,
    **dict.fromkeys(
        (
            keras.layers.ActivityRegularization,
            keras.layers.AlphaDropout,
            keras.layers.Concatenate,
            keras.layers.Cropping1D,
            keras.layers.Cropping2D,
            keras.layers.Cropping3D,
            keras.layers.Dropout,
            keras.layers.Flatten,
            keras.layers.GaussianDropout,
            keras.layers.GaussianNoise,
            keras.layers.Identity,
            keras.layers.Permute,
            keras.layers.RepeatVector,
            keras.layers.Reshape,
            keras.layers.SpatialDropout1D,
            keras.layers.SpatialDropout2D,
            keras.layers.SpatialDropout3D,
            keras.layers.ZeroPadding1D,
            keras.layers.ZeroPadding2D,
            keras.layers.ZeroPadding3D,
        ),
        _free,
    ),
}


def _render(result):
    parts = [_table_of_rows(result), _table_of_totals(result)]
    for role, model in (("model", result), ("twin", result.twin)):
        if model is not None and model.unknown:
            names = rich.markup.escape(", ".join(model.unknown))
            parts.append(f"Not counted in the {role}, as unknown: {names}")
    return render(title_line(result.name), *parts)


def _table_of_rows(result):
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("Layer (type)")
    table.add_column("Output shape")
    for title in ("Parameters", "Multiplications", "Additions"):
        table.add_column(title, justify="right")
    for row in result.rows:
        counts = ("unknown", "unknown")
        if row.operations is not None:
            counts = (
                f"{row.operations.multiplications:,}",
                f"{row.operations.additions:,}",
            )
        name = rich.markup.escape(f"{row.name} ({row.layer_type})")
        shape = rich.markup.escape(str(row.output_shape))
        table.add_row(name, shape, f"{row.parameters:,}", *counts)
    return table


def _table_of_totals(result):
    models = [result] if result.twin is None else [result, result.twin]
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("Total")
    for title in ("Model", "Twin", "Model / twin")[: 2 * len(models) - 1]:
        table.add_column(title, justify="right")

    def add(title, values, form=","):
        cells = [f"{value:{form}}" for value in values]
        if len(values) == 2:
            cells.append(f"{values[0] / values[1]:.2f}" if values[1] else "-")
        table.add_row(title, *cells)

    add("Parameters", [model.parameters for model in models])
    for title, totals in (
        ("convolutions, dense", [model.weighted for model in models]),
        ("all layers", [model.total for model in models]),
    ):
        table.add_section()
        for name in ("multiplications", "additions", "cycles"):
            values = [getattr(total, name) for total in totals]
            add(f"{name.capitalize()}, {title}", values)
        energies = [total.microjoules for total in totals]
        add(f"Energy in \u00b5J, {title}", energies, ",.3f")
    return table
