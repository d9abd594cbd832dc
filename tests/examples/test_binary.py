import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_adder import applications

from training import binary
from training import runs


def normal(*shape):
    return np.random.default_rng(0).normal(0, 1, shape).astype("float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sign(dtype):
    x = tf.cast([-np.inf, -3.0, -1.0, -0.1, 0.0, 1e-20, 1.0, 7.3], dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = binary.sign(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, [-1, -1, -1, -1, 1, 1, 1, 1])
    np.testing.assert_array_equal(tape.gradient(y, x), [0, 0, 1, 1, 1, 1, 1, 0])


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (7, 5)])
def test_filters_are_their_signs_times_one_scale(shape):
    kernel = normal(*shape)
    filters = ops.convert_to_numpy(binary.binary_filters(kernel))
    assert filters.shape == shape
    scales = np.abs(filters)
    for index in range(5):
        assert len(np.unique(scales[..., index])) == 1
        np.testing.assert_allclose(
            scales[..., index].max(),
            np.abs(kernel[..., index]).mean(),
            rtol=1e-6,
        )
    np.testing.assert_array_equal(np.sign(filters), np.sign(kernel))


def check_layer(layer, x, linear):
    """Compares values and gradients with those of `linear`.

    Args:
        layer: The layer, built.
        x: Array, its inputs.
        linear: A function of binary inputs and filters.
    """
    signs = np.where(x >= 0, 1.0, -1.0).astype("float32")
    kernel = layer.kernel.numpy()
    axes = tuple(range(kernel.ndim - 1))
    scale = np.abs(kernel).mean(axes, keepdims=True)
    x, signs = tf.constant(x), tf.constant(signs)
    filters = tf.constant(scale * np.sign(kernel))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, signs, filters])
        outputs = layer(x)
        expected = linear(signs, filters)
        weights = tf.constant(normal(*outputs.shape))
        loss = tf.reduce_sum(weights * outputs)
        expected_loss = tf.reduce_sum(weights * expected)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)

    # Straight through where the argument is in [-1, 1]; and through the scale,
    # |w| / n summed over the filter, whose derivative is sign(w) / n.
    to_signs, to_filters = tape.gradient(expected_loss, [signs, filters])
    to_inputs = to_signs * (np.abs(x) <= 1)
    through_scale = np.sum(
        to_filters * np.sign(kernel), axis=axes, keepdims=True
    ) * (np.sign(kernel) / np.prod(kernel.shape[:-1]))
    to_kernel = scale * to_filters * (np.abs(kernel) <= 1) + through_scale
    gradients = tape.gradient(loss, [x, layer.kernel])
    for gradient, right in zip(gradients, (to_inputs, to_kernel)):
        np.testing.assert_allclose(gradient, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strides, padding", [(1, "same"), (2, "valid")])
def test_convolution(strides, padding):
    layer = binary.BinaryConv2D(
        5, 3, strides=strides, padding=padding, use_bias=False
    )
    layer.build((None, 9, 9, 4))
    layer.kernel.assign(normal(3, 3, 4, 5))

    def linear(x, kernel):
        return tf.nn.conv2d(x, kernel, strides, padding.upper())

    check_layer(layer, normal(2, 9, 9, 4), linear)


def test_dense():
    layer = binary.BinaryDense(5, use_bias=False)
    layer.build((None, 20))
    layer.kernel.assign(normal(20, 5))
    check_layer(layer, normal(6, 20), tf.matmul)


def test_bias_and_activation():
    layer = binary.BinaryDense(3, activation="relu", bias_initializer="ones")
    x = normal(4, 6)
    outputs = layer(x)
    filters = ops.convert_to_numpy(binary.binary_filters(layer.kernel))
    sums = np.where(x >= 0, 1, -1) @ filters + 1
    np.testing.assert_allclose(
        outputs, np.maximum(sums, 0), rtol=1e-5, atol=1e-5
    )


BUILDERS = {
    "lenet": (applications.LeNet5, (32, 32, 1)),
    "vgg_small": (applications.VGGSmall, (32, 32, 3)),
    "resnet20": (applications.ResNet20, (32, 32, 3)),
    "resnet18": (applications.ResNet18, (32, 32, 3)),
    "resnet50": (applications.ResNet50, (32, 32, 3)),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_twin_is_binary_but_for_its_ends(name):
    builder, shape = BUILDERS[name]
    cnn = builder(adder=False, input_shape=shape)
    twin = binary.binarise(cnn)
    assert twin.count_params() == cnn.count_params()
    # The first is that of the input.
    assert [layer.name for layer in twin.layers[1:]] == [
        layer.name for layer in cnn.layers[1:]
    ]
    kinds = (*binary.BINARY, *binary.BINARY.values())
    first, *inner, last = [
        layer for layer in twin.layers if isinstance(layer, kinds)
    ]
    assert type(first) is keras.layers.Conv2D
    assert type(last) in binary.BINARY
    assert {type(layer) for layer in inner} <= {*binary.BINARY.values()}
    for layer in inner:
        assert layer.get_config() == cnn.get_layer(layer.name).get_config()
    # Whatever a binary layer sees has signs, but for the zeros of padding.
    rectified = [
        layer.name
        for layer in twin.layers
        if getattr(layer, "activation", None) is keras.activations.relu
    ]
    assert len(rectified) == 1
    names = [layer.name for layer in twin.layers]
    assert names.index(rectified[0]) > names.index(inner[-1].name)


def test_depthwise_convolutions_are_refused():
    cnn = applications.MobileNetV2(adder=False)
    with pytest.raises(runs.RunError, match="no BNN of mobilenetv2"):
        binary.binarise(cnn)


def test_a_step_changes_every_weight_and_the_model_is_saved(tmp_path):
    model = binary.binarise(applications.LeNet5(adder=False))
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = model.get_weights()
    x, y = normal(16, 32, 32, 1), np.arange(16) % 10
    model.train_on_batch(x, y)
    assert all(
        not np.array_equal(one, other)
        for one, other in zip(before, model.get_weights())
    )
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert type(restored.get_layer("conv2_conv")) is binary.BinaryConv2D
    assert type(restored.get_layer("fc1_dense")) is binary.BinaryDense
    np.testing.assert_array_equal(restored(x), model(x))
