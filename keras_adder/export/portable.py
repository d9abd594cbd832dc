"""Models of adder layers as models of stock operations."""

import keras
import tensorflow as tf

from keras_adder._calls import require_graph
from keras_adder._cloning import Cloner
from keras_adder._cloning import refuse_subclassed_models
from keras_adder.export import stock_ops
from keras_adder.layers import AdderConv1D
from keras_adder.layers import AdderConv2D
from keras_adder.layers import AdderDense
from keras_adder.layers import AdderDepthwiseConv2D
from keras_adder.layers import AdderSeparableConv2D
from keras_adder.layers import FusedAdderConv1D
from keras_adder.layers import FusedAdderConv2D
from keras_adder.layers import FusedAdderDense
from keras_adder.layers.adder_layer import AdderLayer
from keras_adder.layers.fused_adder_layer import FusedAdderLayer

# What all ops of this package begin with.
_OPS = "KerasAdder>"


def to_portable(model: keras.Model) -> keras.Model:
    """Clones a model with adder layers as one of stock operations.

    What `model.export()` writes of the clone runs wherever TensorFlow does and,
    of float32 policies, converts to LiteRT with builtin operations alone: the
    library of this package is needed in neither. It is many times slower than
    the ops of this package, so use those where they can be loaded.

    Distances are taken by maxima,
    `sum |x - f| = 2 sum max(x, f) - sum x - sum f`. An adder layer needs room
    for the patches under its filters, its inputs times the taps of a filter,
    two or three times over, and for 4 MiB of maxima or those of one filter,
    several times where threads take filters at once: all this for each image,
    and of an `AdderDense` for each vector.

    The clone has the weights and outputs of the model (floats up to rounding,
    layers of `keras_adder.inference.optimize` exactly), and takes batches of
    the sizes that the model takes. It is not compiled, and its adder layers are
    frozen, since TensorFlow's gradients of these operations are not the
    paper's. To have integers, call `keras_adder.inference.optimize` first.

    Args:
        model: A functional or sequential `keras.Model` that has been built, of
            floats, or from `keras_adder.inference.optimize`. Models nested in
            it are cloned likewise.

    Returns:
        A new `keras.Model`. To load it from a `.keras` file takes this package;
        what `export()` writes does not.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If `model`, or a model nested in it, is subclassed or has a
            `call` of its own, if `model` has not been built, or if an op of
            this package is left: that of a layer that contains an adder layer,
            or of a subclass.

    Example:

    >>> model = keras_adder.applications.LeNet5(weights="mnist")
    >>> portable = keras_adder.export.to_portable(model)
    >>> portable.export("lenet5", verbose=False)
    """
    require_graph(model)
    refuse_subclassed_models(model)
    cloner = _PortableCloner()
    portable = cloner.clone(model)
    cloner.copy_weights()
    _refuse_our_ops(portable)
    return portable


class _Portable(AdderLayer):
    """An adder layer whose distances are of stock operations."""

    def _distances(self, inputs, filters, **geometry):
        return stock_ops.adder_conv2d(inputs, filters, **geometry)


class _PortableFused(FusedAdderLayer):
    """A fused adder layer of stock operations."""

    def _fused(self, inputs, kernel, residual):
        return stock_ops.fused_adder_conv2d(
            inputs,
            kernel,
            self.multiplier,
            self.offset,
            residual,
            **self._call_arguments(),
        )


def _portable(base):
    """The class of a layer's stock form, of the same arguments and weights."""
    form = _PortableFused if issubclass(base, FusedAdderLayer) else _Portable
    made = type(
        f"Portable{base.__name__}", (form, base), {"__doc__": form.__doc__}
    )
    return keras.saving.register_keras_serializable(package="keras_adder")(made)


PORTABLE_LAYERS = {
    base: _portable(base)
    for base in (
        AdderConv1D,
        AdderConv2D,
        AdderDense,
        AdderDepthwiseConv2D,
        AdderSeparableConv2D,
        FusedAdderConv1D,
        FusedAdderConv2D,
        FusedAdderDense,
    )
}


class _PortableCloner(Cloner):
    """Clones models, with layers in their stock form."""

    COMPILES = False

    def _new_layer(self, layer):
        kind = PORTABLE_LAYERS.get(type(layer))
        if kind is None:
            return super()._new_layer(layer)
        portable = kind.from_config(layer.get_config())
        portable.trainable = False
        return portable


def _refuse_our_ops(model):
    """Looks for ops of this package in the graph of a model's call."""
    sequential = isinstance(model, keras.Sequential)
    inputs = model.inputs[0] if sequential else model.input

    def call(*tensors):
        return model(keras.tree.pack_sequence_as(inputs, tensors))

    specs = [
        tf.TensorSpec(x.shape, x.dtype) for x in keras.tree.flatten(inputs)
    ]
    graph = tf.function(call).get_concrete_function(*specs).graph
    definition = graph.as_graph_def()
    functions = definition.library.function
    nodes = [*definition.node, *(n for f in functions for n in f.node_def)]
    for node in nodes:
        if node.op.startswith(_OPS):
            raise ValueError(
                "`model` must be made of adder layers of this package and of "
                "layers that contain none. Received: model in which "
                f"'{node.name}' is an op {node.op}"
            )
