"""MobileNetV2 beside that of Keras."""

import keras
import numpy as np
import pytest
from applications.counting import images
from applications.counting import kernels
from applications.counting import multiplications

from keras_adder import ALR
from keras_adder import AdderConv2D
from keras_adder import AdderDepthwiseConv2D
from keras_adder import is_adder_filter
from keras_adder.applications import MobileNetV2
from keras_adder.applications import mobilenet_v2
from keras_adder.callbacks import recalibrate_batch_normalization

SHAPE = (32, 32, 3)


def small(**kwargs):
    return MobileNetV2(SHAPE, 0.35, classes=10, **kwargs)


# With 0.1, blocks have shortcuts that else make the network wider.
@pytest.mark.parametrize(
    "alpha, top", [(0.1, False), (0.35, True), (1.0, True), (1.3, False)]
)
def test_layers_are_those_of_keras(alpha, top):
    arguments = {"alpha": alpha, "include_top": top}
    theirs = keras.applications.MobileNetV2(weights=None, **arguments)
    twin = MobileNetV2(**arguments, adder=False)
    adder = MobileNetV2(**arguments)
    # Keras numbers the names of these two.
    numbered = (keras.layers.InputLayer, keras.layers.GlobalAveragePooling2D)
    for layers in zip(theirs.layers, twin.layers, adder.layers, strict=True):
        assert type(layers[0]) is type(layers[1])
        if not isinstance(layers[0], numbered):
            assert len({layer.name for layer in layers}) == 1
        shapes = [
            [layer.output.shape, *(weight.shape for weight in layer.weights)]
            for layer in layers
        ]
        assert shapes[0] == shapes[1] == shapes[2]
    assert theirs.count_params() == twin.count_params() == adder.count_params()


def test_multiplications():
    assert multiplications(MobileNetV2(adder=False)) == 300_774_272


@pytest.fixture(scope="module")
def weights_of_keras(tmp_path_factory):
    model = keras.applications.MobileNetV2(SHAPE, 0.35, False, weights=None)
    # Without it, hardly anything would arrive at the end.
    recalibrate_batch_normalization(model, images(8, *SHAPE))
    path = tmp_path_factory.mktemp("keras") / "keras.weights.h5"
    model.save_weights(path)
    return path


# Where sizes are odd, or not known, paddings differ.
@pytest.mark.parametrize("size", [(32, 41), (None, None)])
def test_the_twin_takes_weights_of_keras(size, weights_of_keras):
    arguments = {
        "input_shape": (*size, 3),
        "alpha": 0.35,
        "include_top": False,
        "weights": weights_of_keras,
    }
    ours = MobileNetV2(**arguments, adder=False)
    x = images(2, *(side or 37 for side in size), 3)
    expected = keras.ops.convert_to_numpy(
        keras.applications.MobileNetV2(**arguments)(x)
    )
    assert expected.std() > 0.1
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-5)


def test_all_but_the_first_and_the_last_are_adder_layers():
    first, *inner, last = kernels(small())
    assert type(first) is keras.layers.Conv2D
    assert type(last) is keras.layers.Dense
    block = [AdderConv2D, AdderDepthwiseConv2D, AdderConv2D]
    types = [type(layer) for layer in inner]
    assert types == [*block[1:], *(16 * block), AdderConv2D]
    assert all(is_adder_filter(layer.kernel) for layer in inner)


def test_a_step_on_small_images_and_a_saved_model(tmp_path):
    model = small()
    x = images(8, *SHAPE)
    inner = kernels(model)[1:-1]
    before = [layer.kernel.numpy() for layer in inner]
    model.compile(ALR(0.1), "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(x, np.arange(8), verbose=0)
    for old, layer in zip(before, inner):
        new = layer.kernel.numpy()
        assert np.isfinite(new).all()
        taps = (0, 1, 3) if layer.name.endswith("depthwise") else (0, 1, 2)
        assert (new != old).any(taps).all(), layer.name
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf"), "1"])
def test_alpha_is_a_positive_number(alpha):
    with pytest.raises(ValueError, match=f"`alpha`.*alpha={alpha!r}"):
        MobileNetV2(alpha=alpha)


def test_preprocessing_is_that_of_keras():
    x = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), "uint8")
    np.testing.assert_allclose(
        mobilenet_v2.preprocess_input(x), x / 127.5 - 1, rtol=0, atol=1e-6
    )
    with pytest.raises(ValueError, match="data_format"):
        mobilenet_v2.preprocess_input(x, data_format="NHWC")


def test_decode_predictions_is_that_of_keras():
    with pytest.raises(ValueError, match="1000"):
        mobilenet_v2.decode_predictions(np.zeros((1, 10)))
