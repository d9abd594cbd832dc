import keras
import numpy as np
import pytest
from applications.counting import Count
from applications.counting import images
from numpy.lib.stride_tricks import sliding_window_view

from keras_adder.applications import ResNet20
from keras_adder.applications import ResNet32
from keras_adder.applications import resnet_cifar


def count(blocks, classes=10):
    total = Count(32, 3).conv(16, 3)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(blocks):
            convolutions = [(filters, 3), (filters, 3)]
            total.residual(convolutions, stride if i == 0 else 1)
    return total.classifier(classes)


@pytest.mark.parametrize(
    "build, blocks, counts",
    [
        # The paper says 41.17M and ~69.12M.
        (ResNet20, 3, (40_813_184, 272_484)),
        (ResNet32, 5, (69_124_736, 466_916)),
    ],
)
def test_counts_by_hand(build, blocks, counts):
    assert count(blocks).both == counts
    assert count(blocks).of(build(adder=False)) == counts
    wide = count(blocks, classes=100)
    assert wide.of(build(classes=100)) == wide.both


def test_depth():
    """The number in the name counts what is not on a shortcut."""
    for build, depth in ((ResNet20, 20), (ResNet32, 32)):
        names = [layer.name for layer in build().layers]
        assert depth == sum(
            name.endswith("_conv") and not name.endswith("_0_conv")
            for name in names
        )


def test_names_are_those_of_keras():
    names = [layer.name for layer in ResNet20().layers[1:]]
    assert names[:3] == ["conv1_conv", "conv1_bn", "conv1_relu"]
    assert [name for name in names if name.startswith("conv2_block1")] == [
        "conv2_block1_1_conv",
        "conv2_block1_1_bn",
        "conv2_block1_1_relu",
        "conv2_block1_2_conv",
        "conv2_block1_2_bn",
        "conv2_block1_add",
        "conv2_block1_out",
    ]
    assert {name for name in names if name.startswith("conv3_block1")} == {
        "conv3_block1_0_conv",
        "conv3_block1_0_bn",
        "conv3_block1_1_pad",
        "conv3_block1_1_conv",
        "conv3_block1_1_bn",
        "conv3_block1_1_relu",
        "conv3_block1_2_conv",
        "conv3_block1_2_bn",
        "conv3_block1_add",
        "conv3_block1_out",
    }
    assert names[-5:] == [
        "avg_pool",
        "fc_conv",
        "fc_bn",
        "flatten",
        "predictions",
    ]
    shortcuts = [name for name in names if name.endswith("_0_conv")]
    assert shortcuts == ["conv3_block1_0_conv", "conv4_block1_0_conv"]


def authors_resnet(model, x, adder):
    """ResNet-20 of the authors' PyTorch code, written out in NumPy."""

    def conv(x, name, stride=1, adder=adder):
        kernel = model.get_layer(name + "_conv").kernel.numpy()
        size = kernel.shape[0]
        pad = (size // 2, size // 2)  # PyTorch's, the same on both sides
        x = np.pad(x, [(0, 0), pad, pad, (0, 0)])
        patches = sliding_window_view(x, (size, size), (1, 2))
        patches = patches[:, ::stride, ::stride]  # n, h, w, channels, i, j
        if adder:
            kernel = kernel.transpose(2, 0, 1, 3)
            y = -np.abs(patches[..., None] - kernel).sum((3, 4, 5))
        else:
            y = np.einsum("nhwcij,ijct->nhwt", patches, kernel)
        norm = model.get_layer(name + "_bn")
        gamma, beta, mean, variance = (v.numpy() for v in norm.weights)
        return (y - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def block(x, name, stride, downsample):
        y = np.maximum(conv(x, name + "_1", stride), 0)
        y = conv(y, name + "_2")
        residual = conv(x, name + "_0", stride) if downsample else x
        return np.maximum(y + residual, 0)

    x = np.maximum(conv(x.astype("float64"), "conv1", adder=False), 0)
    for stage, stride in ((2, 1), (3, 2), (4, 2)):
        for i in (1, 2, 3):
            first = i == 1 and stage > 2
            name = f"conv{stage}_block{i}"
            x = block(x, name, stride if first else 1, first)
    x = x.mean((1, 2), keepdims=True)
    return conv(x, "fc", adder=False)[:, 0, 0]


@pytest.mark.parametrize("adder", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_it_is_the_model_of_the_authors(adder, size):
    model = ResNet20(
        input_shape=(*size, 3), classifier_activation=None, adder=adder
    )
    x = images(8, *size, 3)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.5, 2, layer.gamma.shape))
            layer.beta.assign(rng.uniform(-0.5, 1, layer.beta.shape))
            layer.momentum = 0.0
    # Statistics under which no layer is dead.
    model(x, training=True)
    expected = authors_resnet(model, x, adder)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-4 * scale)


MEAN = np.array([0.4914, 0.4822, 0.4465])
DEVIATION = np.array([0.2023, 0.1994, 0.2010])


def tensor(x):
    return keras.ops.convert_to_tensor(x)


@pytest.mark.parametrize("convert", [np.asarray, tensor])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", "float64"])
@pytest.mark.parametrize("shape", [(5, 4, 3), (2, 5, 4, 3)])
def test_preprocess_input(convert, dtype, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    expected = (pixels.astype("float64") / 255 - MEAN) / DEVIATION
    before = pixels.copy()
    y = resnet_cifar.preprocess_input(convert(pixels))
    result = "float32" if dtype == "uint8" else dtype
    assert keras.backend.standardize_dtype(y.dtype) == result
    tolerance = 5e-3 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(pixels, before)
    first = resnet_cifar.preprocess_input(
        convert(np.moveaxis(pixels, -1, -3)), data_format="channels_first"
    )
    np.testing.assert_allclose(
        np.moveaxis(keras.ops.convert_to_numpy(first), -3, -1), y
    )


def test_preprocess_input_in_a_model(channels_first):
    inputs = keras.Input((3, None, None), dtype="uint8")
    model = keras.Model(inputs, resnet_cifar.preprocess_input(inputs))
    y = model(np.zeros((1, 3, 2, 2), "uint8"))
    np.testing.assert_allclose(y[0, :, 0, 0], -MEAN / DEVIATION, rtol=1e-5)


@pytest.mark.parametrize(
    "shape, data_format, message",
    [
        ((2, 4, 4, 3), "NHWC", "data_format=NHWC"),
        ((2, 4, 4, 3), "channels_first", "3 channels"),
        ((2, 4, 4, 1), None, r"3 channels.*\(2, 4, 4, 1\)"),
        ((3,), None, "3D or 4D"),
    ],
)
def test_preprocess_input_refuses(shape, data_format, message):
    with pytest.raises(ValueError, match=message):
        resnet_cifar.preprocess_input(np.zeros(shape), data_format)
