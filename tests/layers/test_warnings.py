"""What would fail without a word says so."""

import warnings

import keras
import pytest
import tensorflow as tf

import keras_adder
from keras_adder.layers import adder_layer

LAYERS = {
    "AdderConv1D": lambda **kwargs: keras_adder.AdderConv1D(4, 3, **kwargs),
    "AdderConv2D": lambda **kwargs: keras_adder.AdderConv2D(4, 3, **kwargs),
    "AdderDense": lambda **kwargs: keras_adder.AdderDense(4, **kwargs),
    "AdderDepthwiseConv2D": lambda **kwargs: keras_adder.AdderDepthwiseConv2D(
        3, **kwargs
    ),
    "AdderSeparableConv2D": lambda **kwargs: keras_adder.AdderSeparableConv2D(
        4, 3, **kwargs
    ),
}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(adder_layer, "_said", set())


@pytest.fixture(params=LAYERS)
def make(request):
    return LAYERS[request.param]


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    "layer, argument",
    [
        ("AdderConv1D", "kernel_regularizer"),
        ("AdderConv2D", "kernel_regularizer"),
        ("AdderDense", "kernel_regularizer"),
        ("AdderDepthwiseConv2D", "depthwise_regularizer"),
        ("AdderSeparableConv2D", "depthwise_regularizer"),
        ("AdderSeparableConv2D", "pointwise_regularizer"),
    ],
)
def test_a_penalty_is_warned_of_once(layer, argument):
    make = LAYERS[layer]
    with pytest.warns(
        UserWarning, match=f"`{argument}`.*not weight decay.*{argument}="
    ) as caught:
        make(**{argument: keras.regularizers.L2(1e-4)})
        make(**{argument: "l1"})
    assert len(caught) == 1
    assert "ALR(weight_decay=...)" in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "activation",
    [
        "relu",
        "relu6",
        keras.activations.relu,
        keras.layers.ReLU(),
        lambda x: tf.maximum(x, 0.0),
        lambda x: keras.ops.where(x > 5, x, 0),
    ],
)
def test_an_activation_that_lets_nothing_pass_is_warned_of(make, activation):
    with pytest.warns(UserWarning, match="Nothing will pass") as caught:
        make(activation=activation)
    assert "BatchNormalization" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_the_warning_comes_inside_a_graph_too(make):
    @tf.function
    def build():
        with tf.init_scope():
            make(activation="relu")
        return tf.constant(0)

    with pytest.warns(UserWarning, match="Nothing will pass"):
        build()


def refuses_arrays(x):
    raise TypeError("not an array")


@pytest.mark.parametrize(
    "activation",
    [
        *(None, "linear", "leaky_relu", "elu", "sigmoid", "tanh", "softmax"),
        *("softplus", "swish", "gelu", "selu"),
        keras.layers.LeakyReLU(),
        lambda x: tf.abs(x),
        refuses_arrays,
    ],
)
def test_others_are_not(make, activation, no_warnings):
    make(activation=activation)


def test_bias_regularizers_are_fine(make, no_warnings):
    make(bias_regularizer="l2", activity_regularizer="l2")
