"""Batch normalizations that go into convolutions, and those that do not."""

import keras
import pytest
from fused_networks import block
from fused_networks import difference
from fused_networks import images
from fused_networks import kinds
from fused_networks import ready
from keras import layers

from keras_adder import inference

FOLDED = {
    "conv2d": lambda: layers.Conv2D(4, 3, name="stem"),
    "no_bias": lambda: layers.Conv2D(4, 3, use_bias=False, name="stem"),
    "dense": lambda: layers.Dense(4, name="stem"),
    "depthwise": lambda: layers.DepthwiseConv2D(
        3, depth_multiplier=2, name="stem"
    ),
    "groups": lambda: layers.Conv2D(6, 3, groups=3, strides=2, name="stem"),
}


def fast_of(x, inputs):
    model = ready(keras.Model(inputs, block(x, name="adder")))
    return inference.optimize(model, "float32"), model


def normalized(stem, **arguments):
    inputs = keras.Input((8, 7, 3))
    x = layers.BatchNormalization(name="bn", **arguments)(stem(inputs))
    return layers.ReLU(name="relu")(x), inputs


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize(
    "arguments", [{}, {"scale": False}, {"center": False, "epsilon": 0.1}]
)
def test_goes_into_the_weights(name, arguments):
    fast, model = fast_of(*normalized(FOLDED[name](), **arguments))
    assert kinds(fast).keys() >= {"stem", "relu", "adder"}
    assert "bn" not in kinds(fast)
    assert difference(fast, model, images()) < 1e-5
    # What was taken in stays in a file.
    again = keras.models.clone_model(fast)
    again.set_weights(fast.get_weights())
    assert difference(again, fast, images()) == 0


def test_original_keeps_its_weights():
    x, inputs = normalized(FOLDED["conv2d"]())
    model = ready(keras.Model(inputs, block(x, name="adder")))
    before = model.get_weights()
    inference.optimize(model, "int8", images())
    for old, new in zip(before, model.get_weights(), strict=True):
        assert (old == new).all()


KEPT = {
    "activation": (layers.Conv2D(4, 3, activation="relu", name="stem"), {}),
    "axis": (layers.Conv2D(4, 3, name="stem"), {"axis": 1}),
    "separable": (layers.SeparableConv2D(4, 3, name="stem"), {}),
    "transposed": (layers.Conv2DTranspose(4, 3, name="stem"), {}),
    "half": (layers.Conv2D(4, 3, name="stem", dtype="mixed_float16"), {}),
}


@pytest.mark.parametrize("name", KEPT)
def test_stays_where_it_cannot_go(name):
    stem, arguments = KEPT[name]
    fast, model = fast_of(*normalized(stem, **arguments))
    assert "bn" in kinds(fast)
    assert difference(fast, model, images()) < 1e-5


def test_stays_where_something_else_takes_the_convolution():
    inputs = keras.Input((8, 7, 3))
    stem = layers.Conv2D(4, 3, name="stem")(inputs)
    x = layers.BatchNormalization(name="bn")(stem)
    fast, model = fast_of(layers.Add()([x, stem]), inputs)
    assert "bn" in kinds(fast)
    assert difference(fast, model, images()) < 1e-5


def test_stays_where_a_convolution_is_called_twice():
    inputs = keras.Input((8, 7, 3))
    stem = layers.Conv2D(3, 3, padding="same", name="stem")
    x = layers.BatchNormalization(name="bn")(stem(inputs))
    x = layers.BatchNormalization(name="bn2")(stem(x))
    fast, model = fast_of(x, inputs)
    assert {"bn", "bn2"} <= kinds(fast).keys()
    assert difference(fast, model, images()) < 1e-5


def test_a_convolution_before_the_output():
    inputs = keras.Input((8, 7, 3))
    x = layers.Conv2D(4, 1, name="top")(block(inputs, name="adder"))
    model = ready(keras.Model(inputs, layers.BatchNormalization(name="bn")(x)))
    fast = inference.optimize(model, "float32")
    assert "bn" not in kinds(fast)
    assert difference(fast, model, images()) < 1e-5
