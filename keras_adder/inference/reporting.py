"""What became of each layer, and what it costs in accuracy."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import rich.box
import rich.markup
import rich.table
import tensorflow as tf

from keras_adder._printing import print_text
from keras_adder._printing import render
from keras_adder._printing import title_line
from keras_adder.inference import convolutions
from keras_adder.inference import folding
from keras_adder.inference import graph as graphs
from keras_adder.inference import separable
from keras_adder.inference.calibration import batches
from keras_adder.inference.calibration import compiled
from keras_adder.inference.quantization import LEVELS
from keras_adder.inference.quantization import Quantization
from keras_adder.inference.quantization import share_clipped
from keras_adder.inference.requantize import Requantize
from keras_adder.layers import FusedAdderConv2D
from keras_adder.layers import FusedAdderDense

_FUSED = (FusedAdderConv2D, FusedAdderDense)


@dataclasses.dataclass(frozen=True)
class Row:
    """A fused layer.

    Attributes:
        name: string, that of the adder layer.
        filter_dtype: string, that of the kernel, in which it computes.
        low, high: floats, what its inputs and filters can be, those beyond are
            clipped; `None` of a layer without integers, as the next three.
        scale: float, the step between two integers.
        zero_point: int, the integer that stands for zero.
        clipped: float, the share of the original filters' elements beyond.
        output_dtype: string, of what it hands on.
        snr: float, the signal-to-noise ratio of that in dB, against the model
            in floating point; infinite if they are equal, `None` without data.
        bytes: int, the size of its weights.
    """

    name: str
    filter_dtype: str
    low: float | None
    high: float | None
    scale: float | None
    zero_point: int | None
    clipped: float | None
    output_dtype: str
    snr: float | None
    bytes: int


@dataclasses.dataclass(frozen=True)
class Kept:
    """A layer that computes in floating point, and why.

    Attributes:
        name: string.
        layer_type: string, the name of the layer's class.
        reason: string.
    """

    name: str
    layer_type: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What `keras_adder.inference.report` returns.

    Attributes:
        name: string, the model's name.
        rows: list of `Row`, one for each fused layer, in order.
        kept: list of `Kept`.
        bytes_before, bytes_after: ints, the sizes of all weights.
        examples: int, how many the data has.
        snr: float, that of the model's outputs, all together.
        accuracy_before, accuracy_after: floats, `None` without labels.
        agreement: float, the share of examples of which both models name the
            same class; `None` if the output is not one of classes.
    """

    name: str
    rows: list[Row]
    kept: list[Kept]
    bytes_before: int
    bytes_after: int
    examples: int = 0
    snr: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    agreement: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns all of it as numbers, strings, lists and dicts, for JSON."""
        return dataclasses.asdict(self)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the rows: ranges, shares that are clipped, noise, bytes.

        Args:
            path: string, the file to write; its ending says the format.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "`plot()` needs matplotlib: `pip install matplotlib`. "
                f"Received: path={path}"
            ) from error
        _draw(self, Figure).savefig(path)

    def __str__(self) -> str:
        return _render(self)


def report(
    model: keras.Model,
    fast: keras.Model,
    dataset: Any = None,
    print_fn: Callable[[str], Any] | None = None,
) -> Report:
    """Prints, and returns, what `optimize` made of each layer.

    A table of the fused layers has, of each,

    - the range of its inputs, and the scale and zero point of the integers;
    - the share of its filters' elements outside of that range, which were
      clipped and moved into the offset, at no loss;
    - the type of what it hands on;
    - the signal-to-noise ratio of that against `model`, in decibels, with all
      the noise of the layers before it: 20 dB more is a tenth of the error;
    - the bytes of its weights.

    Another one has the layers that stay in floating point, and why. Below are
    the sizes of all weights, the accuracy of both models, and on how many
    examples they agree, right or wrong.

    Args:
        model: The original `keras.Model`.
        fast: What `keras_adder.inference.optimize` made of it, maybe saved and
            loaded since.
        dataset: Data to compare the two on, such as test images: an array, or
            a tuple or a `tf.data.Dataset` of (inputs, labels). Labels are
            integers, or vectors with the most at the class. Defaults to `None`,
            without which there is nothing on noise and accuracy.
        print_fn: function that is called with the tables, a string. Defaults
            to `None`, which means `print`.

    Returns:
        A `keras_adder.inference.Report`: its `as_dict()` is for JSON, its
        `plot(path)` a picture of the layers.

    Raises:
        TypeError: If `model` or `fast` is not a `keras.Model`.
        ValueError: If `fast` was not made of `model`, or if `dataset` does not
            fit them.

    Example:

    ```python
    fast = keras_adder.inference.optimize(model, "int8", images)
    report = keras_adder.inference.report(model, fast, (x_test, y_test))
    report.plot("layers.png")
    ```
    """
    graph = convolutions.fold_normalizations(graphs.read(model))
    fast_graph = graphs.read(fast)
    nodes = {
        node.name: node
        for node in fast_graph.nodes
        if isinstance(node.layer, _FUSED)
    }
    graph, fused = _fold_as(graph, nodes, model, fast)
    comparison = None
    if dataset is not None:
        comparison = _compare(graph, fast_graph, fused.fused, dataset)
    producers = {
        value: node.layer
        for node in fast_graph.nodes
        for value in graphs.values_in(node.outputs)
    }
    rows = []
    for index, one in enumerate(fused.fused):
        snr = comparison and comparison.snr(index)
        rows.append(_row(one, nodes[one.name], producers, snr))
    result = Report(
        model.name,
        rows,
        _kept(fused, rows),
        _bytes(model.weights),
        _bytes(fast.weights),
    )
    if comparison is not None:
        result = dataclasses.replace(result, **comparison.summary())
    (print_text if print_fn is None else print_fn)(str(result))
    return result


def _fold_as(graph, nodes, model, fast):
    """Folds the original as the fast model was folded."""
    kept = {
        node: "`keep_float` was true"
        for node in folding.adder_nodes(graph)
        if node.name not in nodes
    }
    graph = separable.split(graph, kept)
    folded = folding.fold(graph, kept)
    names = [fused.name for fused in folded.fused]
    if not names or sorted(names) != sorted(nodes):
        raise ValueError(
            "`fast` must be what `keras_adder.inference.optimize` made of "
            f"`model`. Received: model={model}, fast={fast} with the fused "
            f"layers {sorted(nodes)}"
        )
    return graph, folded


def _row(fused, node, producers, snr):
    layer = node.layer
    low = high = scale = zero_point = clipped = None
    if layer.filter_dtype != "float32":
        scale, zero_point = layer.input_scale, layer.input_zero_point
        low, high = _range(layer, producers.get(node.inputs[0]))
        clipped = share_clipped(fused.kernel, low, high)
    return Row(
        fused.name,
        layer.filter_dtype,
        low,
        high,
        scale,
        zero_point,
        clipped,
        layer.output_dtype,
        snr,
        _bytes(layer.weights),
    )


def _range(layer, producer):
    """The range of the integers that a layer gets."""
    source = _quantization(
        layer.filter_dtype, layer.input_scale, layer.input_zero_point
    )
    low, high = source.low, source.high
    if isinstance(producer, Requantize):
        levels = producer.levels
        high = (levels - layer.input_zero_point) * layer.input_scale
    elif isinstance(producer, _FUSED) and producer.output_dtype != "float32":
        low = max(low, -math.inf if producer.lower is None else producer.lower)
        high = min(high, math.inf if producer.upper is None else producer.upper)
    return low, high


def _quantization(dtype, scale, zero_point):
    return Quantization(dtype, scale, zero_point, LEVELS[dtype])


def _kept(folded, rows):
    kept = [
        Kept(node.name, type(node.layer).__name__, folded.reasons[node])
        for node in folded.kept
    ]
    if any(row.filter_dtype != "float32" for row in rows):
        kept += [
            Kept(row.name, "fused", "its sums might leave 32 bits")
            for row in rows
            if row.filter_dtype == "float32"
        ]
    return kept


class _Comparison:
    """Sums over batches of what two models make of them."""

    def __init__(self, count):
        # Of each fused layer, and of the outputs.
        self.signals = np.zeros(count + 1)
        self.noises = np.zeros(count + 1)
        self.examples = 0
        self.labelled = 0
        self.right = np.zeros(2, "int64")
        self.agreeing = 0
        self.are_classes = True

    def snr(self, index):
        signal, noise = self.signals[index], self.noises[index]
        if noise == 0:
            return math.inf
        return 10 * math.log10(signal / noise) if signal else -math.inf

    def count(self, outputs, labels):
        """Counts classes, of the outputs of both models."""
        self.examples += outputs[0][0].shape[0]
        shapes = [x.shape for x in outputs[0]]
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] < 2:
            self.are_classes = False
            return
        before, after = (x[0].numpy().argmax(-1) for x in outputs)
        self.agreeing += int(np.sum(before == after))
        if labels is None:
            return
        wanted = _classes(labels, shapes[0])
        self.labelled += len(wanted)
        self.right += [np.sum(before == wanted), np.sum(after == wanted)]

    def summary(self):
        found = {"examples": self.examples, "snr": self.snr(-1)}
        if self.are_classes:
            found["agreement"] = self.agreeing / self.examples
        if self.labelled:
            before, after = self.right / self.labelled
            found["accuracy_before"] = float(before)
            found["accuracy_after"] = float(after)
        return found


def _compare(graph, fast_graph, fused, dataset):
    ends = [_end(one, fast_graph) for one in fused]
    wanted = [one.output for one in fused] + graph.outputs
    fast_wanted = [
        value for end in ends for value in graphs.values_in(end.outputs)
    ] + fast_graph.outputs
    layers = [end.layer for end in ends]

    def measure(inputs):
        exact = [tf.cast(x, tf.float32) for x in graph.run(inputs, wanted)]
        rounded = fast_graph.run(inputs, fast_wanted)
        rounded = [
            _as_numbers(x, layer)
            for x, layer in zip(rounded, layers + [None] * len(rounded))
        ]
        powers = [
            tf.stack([tf.reduce_sum(a**2), tf.reduce_sum((a - b) ** 2)])
            for a, b in zip(exact, rounded)
        ]
        count = len(fused)
        return powers, exact[count:], rounded[count:]

    measure = compiled(graph, measure)
    comparison = _Comparison(len(fused))
    for inputs, labels in batches(graph, dataset, "dataset"):
        powers, exact, rounded = measure(inputs)
        powers = np.array([x.numpy() for x in powers], "float64")
        # All outputs are one.
        powers = np.append(
            powers[: len(fused)], [powers[len(fused) :].sum(axis=0)], axis=0
        )
        comparison.signals += powers[:, 0]
        comparison.noises += powers[:, 1]
        comparison.count((exact, rounded), labels)
    return comparison


def _end(fused, fast_graph):
    """The node that hands on what a fused layer, and what is left of it, do."""
    nodes = iter(fast_graph.nodes)
    node = next(node for node in nodes if node.name == fused.name)
    if fused.activation is None:
        return node
    (value,) = graphs.values_in(node.outputs)
    return next(node for node in nodes if value in node.inputs)


def _as_numbers(x, layer):
    if x.dtype.is_floating or layer is None:
        return tf.cast(x, tf.float32)
    steps = tf.cast(x, tf.float32) - layer.output_zero_point
    return steps * layer.output_scale


def _classes(labels, shape):
    labels = np.asarray(labels)
    if labels.shape == shape:
        return labels.argmax(-1)
    if labels.shape in ((shape[0],), (shape[0], 1)):
        return labels.reshape(-1)
    raise ValueError(
        "The labels of `dataset` must be integers, one an example, or vectors "
        f"of {shape[1]} classes. Received: labels of the shape {labels.shape} "
        f"for {shape[0]} examples"
    )


def _bytes(variables):
    return sum(
        math.prod(variable.shape) * tf.as_dtype(variable.dtype).size
        for variable in variables
    )


def _render(result):
    parts = [_table_of_rows(result), _lines_of_totals(result)]
    if result.kept:
        parts.insert(1, _table_of_kept(result))
    return render(title_line(result.name), *parts)


def _table_of_rows(result):
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("Fused layer")
    table.add_column("In")
    table.add_column("Out")
    titles = ("Range", "Scale", "Zero point", "Clipped", "SNR in dB", "Bytes")
    for title in titles:
        table.add_column(title, justify="right")
    for row in result.rows:
        span = None if row.low is None else f"{row.low:.3g} ... {row.high:.3g}"
        table.add_row(
            rich.markup.escape(row.name),
            row.filter_dtype,
            row.output_dtype,
            span or "-",
            _cell(row.scale, ".3g"),
            _cell(row.zero_point, "d"),
            _cell(row.clipped, ".1%"),
            _cell(row.snr, ".1f"),
            f"{row.bytes:,}",
        )
    return table


def _table_of_kept(result):
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for title in ("In floating point", "Type", "Why"):
        table.add_column(title)
    for kept in result.kept:
        table.add_row(
            rich.markup.escape(kept.name), kept.layer_type, kept.reason
        )
    return table


def _lines_of_totals(result):
    lines = [
        f"Weights: {result.bytes_before:,} bytes before, "
        f"{result.bytes_after:,} after"
    ]
    if result.examples:
        lines.append(
            f"Outputs on {result.examples:,} examples: "
            f"{result.snr:.1f} dB signal to noise"
        )
    if result.accuracy_before is not None:
        lines.append(
            f"Accuracy: {result.accuracy_before:.2%} before, "
            f"{result.accuracy_after:.2%} after"
        )
    if result.agreement is not None:
        lines.append(f"The same class: {result.agreement:.2%} of examples")
    return "\n".join(lines)


def _cell(value, form):
    return "-" if value is None else f"{value:{form}}"


def _draw(result, figure_class):
    rows = result.rows[::-1]  # The first at the top.
    figure = figure_class(figsize=(14, 2 + 0.25 * len(rows)))
    axes = figure.subplots(1, 4, sharey=True)
    names = [row.name for row in rows]
    lows = [row.low or 0.0 for row in rows]
    axes[0].barh(
        names,
        [(row.high or 0.0) - low for row, low in zip(rows, lows)],
        left=lows,
    )
    panels = (
        ("range of inputs", None),
        ("filters clipped, %", [100 * (row.clipped or 0) for row in rows]),
        ("signal to noise, dB", [_finite(row.snr) for row in rows]),
        ("bytes of weights", [row.bytes for row in rows]),
    )
    for axis, (title, values) in zip(axes, panels):
        if values is not None:
            axis.barh(names, values)
        axis.set_title(title)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(result.name)
    figure.set_layout_engine("constrained")
    return figure


def _finite(value):
    return value if value is not None and math.isfinite(value) else 0.0
