import keras
import numpy as np
import pytest
from applications.counting import Count
from applications.counting import images
from applications.counting import kernels
from applications.counting import multiplications
from applications.counting import trainable_parameters

from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import is_adder_filter
from keras_adder.applications import LeNet5
from keras_adder.applications import LeNetPlusPlus


def test_the_adder_net_has_adder_layers_only():
    model = LeNet5()
    types = [type(layer) for layer in kernels(model)]
    assert types == [AdderConv2D] * 2 + [AdderDense] * 3
    filters = [v.path for v in model.variables if is_adder_filter(v)]
    assert filters == [layer.kernel.path for layer in kernels(model)]


def test_layers_read_like_the_table_of_the_paper():
    blocks = [layer.name for layer in LeNet5().layers[1:]]
    assert blocks == [
        "conv1_conv",
        "conv1_bn",
        "conv1_relu",
        "conv1_pool",
        "conv2_conv",
        "conv2_bn",
        "conv2_relu",
        "conv2_pool",
        "flatten",
        "fc1_dense",
        "fc1_bn",
        "fc1_relu",
        "fc2_dense",
        "fc2_bn",
        "fc2_relu",
        "fc3_dense",
        "fc3_bn",
        "predictions",
    ]


def test_counts_by_hand():
    """The paper's ~435K multiplications, from the formula of each layer."""
    count = 28 * 28 * 25 * 6 + 10 * 10 * 25 * 6 * 16
    count += 400 * 120 + 120 * 84 + 84 * 10
    assert count == 416_520
    model = LeNet5(adder=False)
    assert multiplications(model) == count
    weights = 25 * 6 + 25 * 6 * 16 + 400 * 120 + 120 * 84 + 84 * 10
    norms = 2 * (6 + 16 + 120 + 84 + 10)
    assert trainable_parameters(model) == weights + norms == 61_942


def test_counts_of_lenet_plus_plus_by_hand():
    total = Count(28, 1)
    for filters in (32, 64, 128):
        total.conv(filters, 5).conv(filters, 5)
        total.size //= 2
    total.channels *= total.size**2  # the dense layer sees all positions
    total.classifier(2).classifier(10)
    assert total.both == (80_911_124, 797_644)
    assert total.of(LeNetPlusPlus(adder=False)) == total.both


def test_lenet_plus_plus_has_a_feature_to_draw():
    model = LeNetPlusPlus()
    assert all(is_adder_filter(layer.kernel) for layer in kernels(model))
    assert [layer.name for layer in model.layers[-6:]] == [
        "flatten",
        "feature_dense",
        "feature_bn",
        "fc_dense",
        "fc_bn",
        "predictions",
    ]
    assert model.get_layer("feature_bn").output.shape == (None, 2)


@pytest.mark.parametrize("build", [LeNet5, LeNetPlusPlus])
@pytest.mark.parametrize("adder", [True, False])
def test_no_layer_has_a_bias(build, adder):
    assert all(i.bias is None for i in kernels(build(adder=adder)))


def test_name():
    assert LeNet5().name == "lenet5"
    assert LeNet5(name="mine").name == "mine"


@pytest.mark.parametrize(
    "pooling, shape",
    [(None, (2, 5, 5, 16)), ("avg", (2, 16)), ("max", (2, 16))],
)
def test_features(pooling, shape):
    model = LeNet5(include_top=False, pooling=pooling)
    assert model(images(2, 32, 32, 1)).shape == shape


@pytest.mark.parametrize("shape", [(28, 28, 1), (16, 16, 1), (20, 33, 3)])
def test_input_shape(shape):
    assert LeNet5(input_shape=shape)(images(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("adder", [True, False])
def test_weights_from_a_file(adder, suffix, tmp_path):
    path = str(tmp_path / f"lenet5{suffix}")
    model = LeNet5(adder=adder)
    if suffix == ".keras":
        model.save(path)
    else:
        model.save_weights(path)
    x = images(2, 32, 32, 1)
    loaded = LeNet5(weights=path, adder=adder)
    np.testing.assert_array_equal(loaded(x), model(x))
    with pytest.raises(ValueError, match="`classifier_activation` argument"):
        LeNet5(weights=path, adder=adder, classifier_activation="relu")


@pytest.mark.parametrize("adder", [True, False])
def test_training_learns(adder):
    """Which quarter of the image is bright?"""
    keras.utils.set_random_seed(0)
    labels = np.arange(64) % 4
    x = images(64, 16, 16, 1)
    for image, label in zip(x, labels):
        row, column = divmod(label, 2)
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 2.0
    model = LeNet5(input_shape=(16, 16, 1), classes=4, adder=adder)
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x, labels, batch_size=16, epochs=20, verbose=0)
    assert model.evaluate(x, labels, verbose=0)[1] > 0.9
