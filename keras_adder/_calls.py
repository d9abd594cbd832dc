"""Follows an image through a model: which layers are called, on what."""

from typing import Any
from typing import NamedTuple

import keras


class Call(NamedTuple):
    """One call of a layer, or of a function of `keras.ops`, in a model.

    Attributes:
        name: string, the name of the layer, after those of the models that it
            is nested in: `"backbone/conv1"`.
        layer: `keras.Operation`, of which `keras.Layer` is one.
        inputs: list of `keras.KerasTensor`, of a batch of one image unless the
            model has another size of batch.
        outputs: list of `keras.KerasTensor`, likewise.
        sources: frozenset of integers, the indices of the calls whose outputs
            are the inputs.
    """

    name: str
    layer: Any
    inputs: list
    outputs: list
    sources: frozenset


def trace(model):
    """Returns the calls that make up a model, each after its sources.

    A layer that is called more than once is there more than once. Nested
    models are followed inside, and their inputs have the shapes that they are
    called on. The model is not changed.

    Args:
        model: A functional or sequential `keras.Model`.

    Returns:
        A list of `Call`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If it is not a functional or sequential one, or has not
            been built.
    """
    require_graph(model)
    tracer = _Tracer()
    shapes = [
        (tensor.shape[0] or 1, *tensor.shape[1:]) for tensor in model.inputs
    ]
    tracer.follow(model, _inputs_of(model, shapes), prefix="")
    return tracer.calls


def is_graph(layer):
    """Whether it is a model whose layers' calls are known."""
    if not isinstance(layer, keras.Model):
        return False
    try:
        return bool(layer.inputs)
    # A subclassed model has none, a sequential one has them once it is built.
    except (AttributeError, ValueError):
        return False


def require_graph(model):
    """Raises an error for what is no model, or one of unknown calls."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a `keras.Model`. "
            f"Received: model={model} (of type {type(model)})"
        )
    if not is_graph(model):
        raise ValueError(
            "`model` must be functional, or sequential and built (its first "
            "layer a `keras.Input`, or `model.build()` called): of others, "
            f"the layers' calls are not known. Received: model={model} (of "
            f"type {type(model)})"
        )


class Follower:
    """Meets each call of a model's layers, without calling the layers.

    A subclass has a method `call(layer, prefix, args, kwargs)`, which returns
    symbolic outputs.
    """

    def __init__(self):
        # By the tensor's id; the tensors are kept, so that ids stay theirs.
        self._known = {}
        self._tensors = []

    def follow(self, model, inputs, prefix):
        """Follows a model on some inputs; returns a list of its outputs."""
        # The same graph without what the model was compiled with, which
        # `clone_model` would clone too.
        graph = keras.Model(model.inputs, model.outputs, name=model.name)
        probed = keras.models.clone_model(
            graph,
            input_tensors=inputs,
            clone_function=lambda layer: _Probe(layer, self, prefix),
        )
        return probed.outputs

    def known(self, tensor):
        """What was remembered of a tensor, or `None`."""
        return self._known.get(id(tensor))

    def remember(self, tensor, what):
        self._known[id(tensor)] = what
        self._tensors.append(tensor)


class _Tracer(Follower):
    """Collects calls, and remembers the sources of each tensor."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def call(self, layer, prefix, args, kwargs):
        """Traces one call; returns its outputs."""
        inputs = [
            value
            for value in keras.tree.flatten((args, kwargs))
            if isinstance(value, keras.KerasTensor)
        ]
        if is_graph(layer):
            return self._call_nested(layer, f"{prefix}{layer.name}/", inputs)
        outputs = layer.compute_output_spec(*args, **kwargs)
        flat = keras.tree.flatten(outputs)
        sources = frozenset().union(*map(self._sources_of, inputs))
        for tensor in flat:
            self.remember(tensor, frozenset([len(self.calls)]))
        self.calls.append(
            Call(f"{prefix}{layer.name}", layer, inputs, flat, sources)
        )
        return outputs

    def _call_nested(self, model, prefix, inputs):
        inner = _inputs_of(model, [tensor.shape for tensor in inputs])
        for tensor, outer in zip(inner, inputs):
            self.remember(tensor, self._sources_of(outer))
        outputs = []
        for tensor in self.follow(model, inner, prefix):
            # A new tensor, as this one has its place in the inner graph.
            output = keras.KerasTensor(tensor.shape, tensor.dtype)
            self.remember(output, self._sources_of(tensor))
            outputs.append(output)
        return keras.tree.pack_sequence_as(model.output, outputs)

    def _sources_of(self, tensor):
        return self.known(tensor) or frozenset()


class _Probe(keras.Operation):
    """Stands for a layer in a graph, so that the layer itself is not called.

    A call would give the layer one more input and output.
    """

    def __init__(self, layer, follower, prefix):
        super().__init__(name=layer.name)
        self._layer = layer
        self._follower = follower
        self._prefix = prefix

    def compute_output_spec(self, *args, **kwargs):
        return self._follower.call(self._layer, self._prefix, args, kwargs)


def _inputs_of(model, shapes):
    """Inputs like those of a model, but of other shapes."""
    return [
        keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)
        for tensor, shape in zip(model.inputs, shapes)
    ]
