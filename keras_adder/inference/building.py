"""New models from folded graphs."""

import math

import keras
import numpy as np

from keras_adder._cloning import finalize
from keras_adder._cloning import remade
from keras_adder.inference.folding import Folding
from keras_adder.inference.folding import Fused
from keras_adder.inference.graph import Graph
from keras_adder.inference.graph import replace_values
from keras_adder.inference.planning import Plan
from keras_adder.inference.quantization import LEVELS
from keras_adder.inference.quantization import quantize_filters
from keras_adder.inference.requantize import Requantize
from keras_adder.layers import AdderConv1D
from keras_adder.layers import AdderDense
from keras_adder.layers import FusedAdderConv1D
from keras_adder.layers import FusedAdderConv2D
from keras_adder.layers import FusedAdderDense


def build(
    graph: Graph,
    folding: Folding,
    plan: Plan,
    errors: dict[Fused, np.ndarray],
    name: str,
) -> keras.Model:
    """Builds a functional model with fused layers.

    Args:
        graph: `Graph` of the original.
        folding: `Folding` of it.
        plan: `Plan` of that.
        errors: dict of arrays by `Fused`, what rounding takes from outputs.
        name: string, that of the new model.
    """
    builder = _Builder(graph, plan, errors)
    kept = set(folding.kept)
    last = {fused.folded[-1]: fused for fused in folding.fused}
    for node in graph.nodes:
        if node in kept:
            builder.keep(node)
        elif node in last:
            builder.add(last[node])
    builder.copy_weights()
    return keras.Model(
        replace_values(graph.input_structure, builder.tensors),
        replace_values(graph.output_structure, builder.tensors),
        name=name,
    )


class _Builder:
    def __init__(self, graph, plan, errors):
        self._plan = plan
        self._errors = errors
        self.tensors = {value: _new_input(value) for value in graph.inputs}
        self._names = {node.name for node in graph.nodes}
        self._clones = {}
        # Tensors that were brought to fewer levels, or to float.
        self._requantized = {}
        self._floats = {}

    def keep(self, node):
        """Calls a clone of a layer as the original is called."""
        if id(node.layer) not in self._clones:
            self._clones[id(node.layer)] = node.layer, _clone(node)
        _, clone = self._clones[id(node.layer)]
        if isinstance(clone, keras.layers.Layer) and not node.in_training:
            # Batch normalizations stay as they are, whatever one does.
            clone.trainable = False
        outputs = clone(
            *replace_values(node.args, self.tensors),
            **replace_values(node.kwargs, self.tensors),
        )
        values = keras.tree.flatten(node.outputs)
        for value, tensor in zip(values, keras.tree.flatten(outputs)):
            self.tensors[value] = tensor

    def copy_weights(self):
        for original, clone in self._clones.values():
            if not isinstance(original, keras.layers.Layer):
                continue  # A function of `keras.ops`.
            clone.set_weights(original.get_weights())
            finalize(clone)

    def add(self, fused):
        """Calls a fused layer."""
        integer = fused in self._plan.integer
        stores = self._plan.stores.get(fused.output)
        residual = fused.residual
        arguments = {
            "name": fused.name,
            "dtype": "float32",
            "filter_dtype": self._plan.dtype if integer else "float32",
            **_bounds(fused, stores),
        }
        if integer:
            source = self._plan.sources[fused.source]
            arguments["input_scale"] = source.scale
            arguments["input_zero_point"] = source.zero_point
        if residual in self._plan.stores:
            added = self._plan.stores[residual]
            arguments["residual_scale"] = added.scale
            arguments["residual_zero_point"] = added.zero_point
        if stores is not None:
            arguments["output_dtype"] = stores.dtype
            arguments["output_scale"] = stores.scale
            arguments["output_zero_point"] = stores.zero_point
        layer = _fused_layer(fused, arguments)
        inputs = [self._source(fused, integer)]
        if residual is not None:
            inputs.append(self._stored_or_float(residual))
        output = layer(*inputs)
        _set_weights(
            layer,
            fused,
            self._plan.sources[fused.source] if integer else None,
            self._errors.get(fused, 0.0),
        )
        if fused.activation is not None:
            output = keras.layers.Activation(
                fused.activation,
                dtype=fused.layer.dtype_policy,
                name=self._new_name(f"{fused.name}_activation"),
            )(output)
        self.tensors[fused.output] = output

    def _source(self, fused, integer):
        value = fused.source
        wanted = self._plan.sources[value] if integer else None
        stored = self._plan.stores.get(value)
        if wanted is None or stored == wanted:
            return self._stored_or_float(value)
        if wanted.levels == LEVELS[wanted.dtype]:
            # The layer itself quantizes what is float.
            return self._stored_or_float(value)
        if value not in self._requantized:
            arguments = {
                "scale": wanted.scale,
                "zero_point": wanted.zero_point,
                "levels": wanted.levels,
            }
            if stored is not None:
                arguments["input_scale"] = stored.scale
                arguments["input_zero_point"] = stored.zero_point
            self._requantized[value] = Requantize(
                **arguments,
                dtype="float32",
                name=self._new_name(f"{fused.name}_input"),
            )(self._stored_or_float(value))
        return self._requantized[value]

    def _stored_or_float(self, value):
        if value in self._plan.stores or value.is_float:
            return self.tensors[value]
        # An input of integers, which are numbers and not quantized.
        if value not in self._floats:
            self._floats[value] = keras.layers.Rescaling(
                1.0,
                dtype="float32",
                name=self._new_name(f"{value.name}_float"),
            )(self.tensors[value])
        return self._floats[value]

    def _new_name(self, name):
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def _new_input(value):
    return keras.Input(
        batch_shape=value.shape,
        dtype=value.dtype,
        sparse=value.sparse,
        name=value.name,
    )


def _clone(node):
    layer = node.layer
    config = layer.get_config()
    if "name" in config:
        config["name"] = node.name
    return remade(layer, config)


def _bounds(fused, stores):
    lower, upper = fused.lower, fused.upper
    if stores is not None and stores.levels < LEVELS[stores.dtype]:
        # The type has more levels than are to be used.
        lower, upper = max(lower, stores.low), min(upper, stores.high)
    return {
        "lower": None if lower == -math.inf else lower,
        "upper": None if upper == math.inf else upper,
    }


def _fused_layer(fused, arguments):
    kind = type(fused.layer)
    *kernel_size, channels, filters = fused.kernel.shape
    if kind is AdderDense:
        return FusedAdderDense(filters, **arguments)
    fused_kind = FusedAdderConv1D if kind is AdderConv1D else FusedAdderConv2D
    return fused_kind(
        filters,
        kernel_size,
        groups=fused.source.shape[fused.channel_axis] // channels,
        **fused.geometry,
        **arguments,
    )


def _set_weights(layer, fused, source, error):
    kernel, multiplier, offset = fused.kernel, fused.multiplier, fused.offset
    if source is not None:
        kernel, lacking = quantize_filters(kernel, source)
        offset = offset + (lacking + error) * multiplier
        multiplier = multiplier * source.scale
    layer.kernel.assign(kernel.reshape(layer.kernel.shape))
    layer.multiplier.assign(multiplier.astype("float32"))
    layer.offset.assign(offset.astype("float32"))
