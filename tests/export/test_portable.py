"""Whole models of stock operations: in this process, and without us."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from fused_networks import dense
from fused_networks import flat_layers
from fused_networks import images
from fused_networks import mobile
from fused_networks import ready
from fused_networks import residual
from serving import serve

import keras_adder
from keras_adder import inference
from keras_adder.export import to_portable
from keras_adder.layers.adder_layer import AdderLayer
from keras_adder.layers.fused_adder_layer import FusedAdderLayer

NETWORKS = {
    "residual": residual,
    "dense": dense,
    "mobile": mobile,
}


def assert_near(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        actual, expected, 0, 1e-4 * np.abs(expected).mean()
    )


def inputs_of(model, count=6):
    return images(count, model.input_shape[1:], seed=11)


@pytest.mark.parametrize("network", NETWORKS)
def test_floats(network):
    model = NETWORKS[network]()
    portable = to_portable(model)
    x = inputs_of(model)
    assert_near(portable(x).numpy(), model(x).numpy())
    assert portable.name == model.name
    assert not portable.compiled
    for ours, theirs in zip(flat_layers(model), flat_layers(portable)):
        assert ours.name == theirs.name
        if isinstance(ours, AdderLayer):
            assert type(theirs).__name__ == f"Portable{type(ours).__name__}"
            assert theirs.trainable_weights == []
        np.testing.assert_equal(ours.get_weights(), theirs.get_weights())
    # The model is what it was.
    assert model.trainable_weights


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("precision", ["float32", "int8", "int16"])
def test_optimized(network, precision):
    """Between stem and top, integers leave nothing to round."""
    model = NETWORKS[network]()
    x = inputs_of(model, 16)
    fast = inference.optimize(
        model, precision, None if precision == "float32" else x
    )
    portable = to_portable(fast)
    last = [
        layer.name
        for layer in flat_layers(fast)
        if isinstance(layer, FusedAdderLayer)
    ][-1]
    ours, theirs = (
        keras.Model(m.input, m.get_layer(last).output)(x).numpy()
        for m in (fast, portable)
    )
    if precision == "float32":
        assert_near(theirs, ours)
    else:
        np.testing.assert_array_equal(theirs, ours)
    assert_near(portable(x).numpy(), fast(x).numpy())


def test_without_this_package(tmp_path):
    x = images(8, seed=9)
    model = residual()
    models = {"float": model, "int8": inference.optimize(model, "int8", x)}
    for name, each in models.items():
        to_portable(each).export(str(tmp_path / name), verbose=False)
    for name, outputs in serve(tmp_path, models, x).items():
        assert_near(outputs, models[name](x).numpy())


@pytest.mark.parametrize(
    "network, precision",
    [("residual", None), ("mobile", "int8"), ("dense", "int8")],
)
def test_litert_with_builtin_operations_alone(network, precision, tmp_path):
    model = NETWORKS[network]()
    x = inputs_of(model)
    if precision is not None:
        model = inference.optimize(model, precision, x)
    to_portable(model).export(str(tmp_path), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    content = converter.convert()  # fails where there is no builtin one
    interpreter = tf.lite.Interpreter(model_content=content)
    (details,) = interpreter.get_input_details()
    expected = model(x).numpy()
    for count in (len(x), 1):
        interpreter.resize_tensor_input(details["index"], (count, *x.shape[1:]))
        interpreter.allocate_tensors()
        interpreter.set_tensor(details["index"], x[:count])
        interpreter.invoke()
        (output,) = interpreter.get_output_details()
        actual = interpreter.get_tensor(output["index"])
        assert_near(actual, expected[:count])


def test_images_of_any_size():
    inputs = keras.Input((None, None, 3))
    x = keras_adder.AdderConv2D(5, 3, strides=2, padding="same")(inputs)
    x = keras_adder.AdderSeparableConv2D(4, 3, strides=2, padding="same")(x)
    model = keras.Model(inputs, x)
    portable = to_portable(model)
    for height, width in ((7, 8), (12, 5)):
        x = images(2, (height, width, 3))
        assert_near(portable.predict(x, verbose=0), model(x).numpy())


@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
@pytest.mark.parametrize("precision", [None, "int8"])
def test_sequences_of_any_length(padding, precision):
    inputs = keras.Input((None, 4))
    x = keras_adder.AdderConv1D(6, 3, padding=padding, strides=2)(inputs)
    x = keras.layers.BatchNormalization()(x)
    model = ready(keras.Model(inputs, x), images(8, (20, 4)))
    if precision is not None:
        model = inference.optimize(model, precision, images(8, (20, 4)))
    portable = to_portable(model)
    for length in (7, 12):
        x = images(2, (length, 4))
        assert_near(portable.predict(x, verbose=0), model(x).numpy())


def test_normalization_of_the_batch_stays_that():
    inputs = keras.Input((6, 6, 3))
    x = keras_adder.AdderConv2D(4, 3)(inputs)
    x = keras.layers.BatchNormalization()(x, training=True)
    model = keras.Model(inputs, x)
    x = images(4, (6, 6, 3))
    expected = model(x).numpy()
    actual = to_portable(model)(x).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_other_layers_and_losses():
    """What configurations alone do not say how to make."""

    def loss(labels, outputs):
        return keras.ops.mean((labels - outputs) ** 2)

    discretization = keras.layers.Discretization(
        num_bins=4, output_mode="int", dtype="float32"
    )
    discretization.adapt(np.linspace(-1, 1, 100))
    model = keras.Sequential(
        [
            keras.Input((5,)),
            discretization,
            keras.layers.Lambda(lambda x: keras.ops.cast(x, "float32") / 2),
            keras_adder.AdderDense(3),
        ]
    )
    model.compile("sgd", loss)
    x = images(4, (5,))
    np.testing.assert_allclose(to_portable(model)(x), model(x), rtol=1e-5)


def test_half_precision():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras_adder.AdderConv2D(4, 3, dtype="mixed_float16"),
            keras.layers.Flatten(),
            keras_adder.AdderDense(3, dtype="mixed_float16"),
        ]
    )
    x = images(4, (8, 8, 3))
    ours, theirs = model(x).numpy(), to_portable(model)(x).numpy()
    assert theirs.dtype == ours.dtype == "float16"
    np.testing.assert_allclose(theirs, ours, rtol=2e-3)


def test_saving(tmp_path):
    portable = to_portable(residual())
    portable.save(tmp_path / "portable.keras")
    loaded = keras.models.load_model(tmp_path / "portable.keras")
    x = images(4)
    np.testing.assert_array_equal(loaded(x), portable(x))
    # A portable model is portable.
    np.testing.assert_array_equal(to_portable(portable)(x), portable(x))


def test_nested_and_shared():
    part = residual()
    first, second = (
        keras.Input(part.input_shape[1:]),
        keras.Input(part.input_shape[1:]),
    )
    model = keras.Model(
        {"a": first, "b": second},
        keras.layers.Subtract()([part(first), part(second)]),
    )
    x = {"a": images(3, seed=1), "b": images(3, seed=2)}
    portable = to_portable(model)
    assert_near(portable(x).numpy(), model(x).numpy())
    assert len(portable.weights) == len(model.weights)


class Twice(keras_adder.AdderConv2D):
    def call(self, inputs):
        return 2 * super().call(inputs)


class Negated(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return -super().call(inputs, training=training, mask=mask)


class Mapped(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras_adder.AdderDense(3)

    def call(self, inputs):
        return tf.map_fn(lambda x: self.inner(x[None])[0], inputs)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 3)


def sequential(*layers):
    return keras.Sequential([keras.Input((4, 6, 6, 3)), *layers])


@pytest.mark.parametrize(
    "model",
    [
        lambda: sequential(
            keras.layers.TimeDistributed(keras_adder.AdderConv2D(4, 3))
        ),
        lambda: keras.Sequential([keras.Input((6, 6, 3)), Twice(4, 3)]),
        lambda: keras.Sequential([keras.Input((5,)), Mapped()]),
    ],
)
def test_what_would_need_the_library(model):
    with pytest.raises(ValueError, match="op KerasAdder>AdderConv2D"):
        to_portable(model())


@pytest.mark.parametrize("nested", [False, True])
def test_a_call_that_would_be_lost(nested):
    model = Negated([keras.Input((5,)), keras_adder.AdderDense(3)])
    if nested:
        model = keras.Sequential([keras.Input((5,)), model])
    with pytest.raises(ValueError, match="cannot be replaced"):
        to_portable(model)


def test_no_model():
    with pytest.raises(TypeError, match="`model`"):
        to_portable(keras_adder.AdderDense(3))
    with pytest.raises(ValueError, match="built"):
        to_portable(keras.Sequential([keras_adder.AdderDense(3)]))
