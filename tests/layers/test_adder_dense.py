import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adder import AdderDense


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def differences(x, kernel):
    return x[..., None].astype("float64") - kernel.numpy().astype("float64")


def distances(x, kernel):
    return -np.abs(differences(x, kernel)).sum(-2)


@pytest.mark.parametrize(
    "shape", [(4, 7), (1, 1), (3, 5, 7), (2, 3, 4, 5), (0, 7), (2, 0, 7)]
)
@pytest.mark.parametrize("units", [1, 6])
def test_shapes_and_values(shape, units):
    layer, dense = AdderDense(units), keras.layers.Dense(units)
    x = features(*shape)
    y = layer(x)
    assert y.shape == dense(x).shape
    assert [w.shape for w in layer.weights] == [w.shape for w in dense.weights]
    assert [w.name for w in layer.weights] == [w.name for w in dense.weights]
    want = distances(x, layer.kernel)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 7), (None, 7), (None, None, 3, 7)])
def test_symbolic_shapes_are_those_of_dense(shape):
    x = keras.KerasTensor(shape)
    assert AdderDense(6)(x).shape == keras.layers.Dense(6)(x).shape


def test_sizes_may_be_unknown():
    inputs = keras.Input((None, 5, 7))
    layer = AdderDense(6)
    model = keras.Model(inputs, layer(inputs))
    for shape in [(1, 3, 5, 7), (4, 1, 5, 7), (2, 6, 5, 7)]:
        x = features(*shape)
        want = distances(x, layer.kernel)
        y = model.predict(x, verbose=0)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)

    @tf.function(input_signature=[tf.TensorSpec((None, None, 5, 7))])
    def static_shape(x):
        y = layer(x)
        assert y.shape.as_list() == [None, None, 5, 6]
        return y

    assert static_shape(features(2, 3, 5, 7)).shape == (2, 3, 5, 6)


@pytest.mark.parametrize("mode", ["full_precision", "sign"])
@pytest.mark.parametrize("shape", [(4, 7), (3, 5, 7)])
def test_gradients(shape, mode):
    layer = AdderDense(6, filter_gradient=mode)
    x = tf.constant(features(*shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        upstream = features(*y.shape, seed=1)
        loss = tf.reduce_sum(y * upstream)
    dx, df = tape.gradient(loss, [x, layer.kernel.value])
    difference = differences(x.numpy(), layer.kernel)
    g = upstream[..., None, :]
    np.testing.assert_allclose(
        dx, (g * np.clip(-difference, -1, 1)).sum(-1), rtol=1e-4, atol=1e-5
    )
    gradient = difference if mode == "full_precision" else np.sign(difference)
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(
        df, (g * gradient).sum(axes), rtol=1e-4, atol=1e-5
    )


def test_data_format_does_not_matter():
    x = features(4, 7)
    layer = AdderDense(6)
    want = layer(x)
    keras.config.set_image_data_format("channels_first")
    try:
        y = layer(x)
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_array_equal(y, want)


def test_bias_and_activation():
    x = features(4, 7)
    layer = AdderDense(
        6,
        activation="relu",
        bias_initializer=keras.initializers.Constant(7.0),
    )
    y = layer(x)
    want = np.maximum(distances(x, layer.kernel) + 7, 0)
    assert 0 < np.mean(want == 0) < 1
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_masks_pass_through_as_in_dense():
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(10, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, AdderDense(3)(x))
    y = model(np.array([[1, 2, 0]]))
    np.testing.assert_array_equal(y._keras_mask, [[True, True, False]])


@pytest.mark.parametrize("units", [0, -1, 2.5, None])
def test_units_must_be_positive(units):
    with pytest.raises(ValueError, match="units"):
        AdderDense(units)


def test_inputs_of_the_wrong_rank_or_depth():
    with pytest.raises(ValueError, match="min_ndim=2"):
        AdderDense(3)(np.zeros(3))
    layer = AdderDense(3)
    layer.build((None, 4))
    with pytest.raises(ValueError, match="axis -1"):
        layer(np.zeros((2, 5)))
