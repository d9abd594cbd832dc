"""Clones functional and sequential models, layer by layer."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_adder._calls import is_graph


class Cloner:
    """Clones a model, and the models nested in it.

    A subclass says what becomes of a layer by `_new_layer`, and whether models
    are compiled as they were.
    """

    COMPILES = True

    def __init__(self) -> None:
        # By the original's id: the original, which is to keep its id, and what
        # it has become.
        self._clones: dict[int, tuple[Any, Any]] = {}

    def clone(self, model: keras.Model) -> keras.Model:
        """Clones a functional or sequential model without its weights."""
        if isinstance(model, keras.Sequential):
            return self._clone_sequential(model)
        if not self.COMPILES:
            model = keras.Model(model.input, model.output, name=model.name)
        return keras.models.clone_model(
            model,
            input_tensors=_clone_inputs(model),
            clone_function=self._clone_layer,
            call_function=self._call,
        )

    def copy_weights(self) -> None:
        """Copies the weights of all layers that `_weights` gives some."""
        for original, clone in self._clones.values():
            if is_graph(original) or not isinstance(
                original, keras.layers.Layer
            ):
                continue  # A model, or a function of `keras.ops`.
            weights = self._weights(original, clone)
            if weights is None:
                continue
            clone.set_weights(weights)
            finalize(clone)

    def _new_layer(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """What a layer becomes."""
        return remade(layer, layer.get_config())

    def _weights(
        self, original: keras.layers.Layer, clone: keras.layers.Layer
    ) -> list[Any] | None:
        """The weights of a clone; `None` are those that it has."""
        return original.get_weights()

    def _behind(
        self, clone: keras.layers.Layer
    ) -> Iterable[keras.layers.Layer]:
        """New layers to follow that of the clone."""
        return ()

    def _call(
        self, layer: keras.layers.Layer, *args: Any, **kwargs: Any
    ) -> Any:
        outputs = layer(*args, **kwargs)
        for behind in self._behind(layer):
            outputs = behind(outputs)
        return outputs

    def _clone_sequential(self, model):
        layers = []
        for layer in model.layers:
            clone = self._clone_layer(layer)
            layers += [clone, *self._behind(clone)]
        clone = keras.Sequential(
            [_clone_input(_input_layers(model)[0]), *layers],
            name=model.name,
            trainable=model.trainable,
        )
        if self.COMPILES and model.compiled:
            clone.compile_from_config(model.get_compile_config())
        return clone

    def _clone_layer(self, layer):
        if id(layer) in self._clones:  # It is shared.
            return self._clones[id(layer)][1]
        clone = self.clone(layer) if is_graph(layer) else self._new_layer(layer)
        self._clones[id(layer)] = layer, clone
        return clone


def remade(
    layer: keras.layers.Layer, config: dict[str, Any]
) -> keras.layers.Layer:
    """A new layer of a layer's class."""
    if type(layer) is keras.layers.Lambda:
        # The function itself: one of a configuration has lost its globals, and
        # what else is one is found by calling it.
        known = {k: v for k, v in config.items() if not _is_function(v)}
        return type(layer)(**known | {"function": layer.function})
    return type(layer).from_config(config)


def _is_function(config):
    return isinstance(config, dict) and config.get("class_name") in (
        "__lambda__",
        "function",
    )


def finalize(layer: keras.layers.Layer) -> None:
    """Derives from new weights what an adapted layer computes with."""
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()


def _input_layers(model):
    layers = model.layers
    if isinstance(model, keras.Sequential):
        # Of these, `layers` leaves it out.
        layers = [keras.Model(model.inputs, model.outputs).layers[0]]
    return [x for x in layers if isinstance(x, keras.layers.InputLayer)]


def _clone_input(layer):
    return type(layer).from_config(layer.get_config()).output


def _clone_inputs(model):
    """New inputs of a functional model, by the names of its input layers.

    `clone_model` would name them by their tensors.
    """
    layers = {id(layer.output): layer for layer in _input_layers(model)}
    return keras.tree.map_structure(
        lambda tensor: _clone_input(layers[id(tensor)]), model.input
    )


def refuse_subclassed_models(model: keras.Model, prefix: str = "") -> None:
    """Raises if a model, or one nested in it, has a `call` of its own.

    Its layers cannot be replaced if they are not known; and if they are, as
    those of a subclass of `keras.Sequential`, what `call` adds would be lost.

    Args:
        model: A `keras.Model`.
        prefix: string, before the names of the models that are nested in it.
    """
    inputs = keras.Input((1,))
    graphs = keras.Sequential, type(keras.Model(inputs, inputs))
    if type(model).call not in [kind.call for kind in graphs]:
        raise ValueError(
            "`model` must be made of functional and sequential models; the "
            "layers in a subclassed one cannot be replaced. Received: "
            f"model with '{prefix.rstrip('/') or model.name}' of type "
            f"{type(model)}"
        )
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            refuse_subclassed_models(layer, f"{prefix}{layer.name}/")
