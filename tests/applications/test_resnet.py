import keras
import numpy as np
import pytest
from applications.counting import Count
from applications.counting import kernels

from keras_adder.applications import ResNet18
from keras_adder.applications import ResNet34
from keras_adder.applications import ResNet50
from keras_adder.applications import ResNet101
from keras_adder.applications import resnet


def count(blocks, bottleneck, classes=1000):
    total = Count(224, 3).conv(64, 7, stride=2).pool()
    for stage, number in enumerate(blocks):
        filters = 64 * 2**stage
        convolutions = [(filters, 3), (filters, 3)]
        if bottleneck:
            convolutions = [(filters, 1), (filters, 3), (4 * filters, 1)]
        for i in range(number):
            total.residual(convolutions, 2 if stage > 0 and i == 0 else 1)
    return total.classifier(classes, bias=True)


# The published counts of torchvision's models, of which ours are the twins but
# for a batch normalization of 2 * 1000 parameters after the classifier.
@pytest.mark.parametrize(
    "build, blocks, bottleneck, multiplications, torchvision",
    [
        (ResNet18, (2, 2, 2, 2), False, 1_814_073_344, 11_689_512),
        (ResNet34, (3, 4, 6, 3), False, 3_663_761_408, 21_797_672),
        (ResNet50, (3, 4, 6, 3), True, 4_089_184_256, 25_557_032),
        (ResNet101, (3, 4, 23, 3), True, 7_801_405_440, 44_549_160),
    ],
)
def test_counts_by_hand(
    build, blocks, bottleneck, multiplications, torchvision
):
    total = count(blocks, bottleneck)
    assert total.both == (multiplications, torchvision + 2 * 1000)
    assert total.of(build(adder=False)) == total.both


def test_the_stride_is_what_parts_resnet50_from_the_papers_count():
    """The first version has its stride in the first 1x1, and takes 3.86G."""
    saved = 0
    for filters, size in ((128, 28), (256, 14), (512, 7)):
        # The first 1x1 of a stage meets four times as many positions.
        saved += 3 * size**2 * (2 * filters) * filters
    assert count((3, 4, 6, 3), True).multiplications - saved == 3_857_973_248


def test_resnet50_beside_that_of_keras():
    """Kernels and normalizations agree one by one; biases and strides differ.

    Keras's convolutions have biases, ours have none: 26,560, one for each
    output channel.
    """
    ours = ResNet50(include_top=False, adder=False)
    theirs = keras.applications.ResNet50(include_top=False, weights=None)
    weighted = [layer for layer in theirs.layers if layer.weights]
    names = {layer.name for layer in ours.layers if layer.weights}
    assert names == {layer.name for layer in weighted}
    for layer in weighted:
        kernel, other = layer.weights[0], ours.get_layer(layer.name).weights[0]
        assert kernel.shape == other.shape
    biases = sum(layer.filters for layer in kernels(theirs))
    assert biases == 26_560
    assert ours.count_params() == theirs.count_params() - biases == 23_561_152
    extra = {layer.name for layer in ours.layers[1:]} - {
        layer.name for layer in theirs.layers[1:]
    }
    assert extra == {f"conv{i}_block1_2_pad" for i in (3, 4, 5)}


@pytest.mark.parametrize(
    "build, first, last", [(ResNet18, "1", "2"), (ResNet50, "2", "3")]
)
def test_strides_and_paddings_are_those_of_pytorch(build, first, last):
    model = build(include_top=False)
    strided = {
        layer.name for layer in kernels(model) if layer.strides != (1, 1)
    }
    blocks = [f"conv{i}_block1" for i in (3, 4, 5)]
    assert strided == (
        {"conv1_conv"}
        | {f"{block}_0_conv" for block in blocks}
        | {f"{block}_{first}_conv" for block in blocks}
    )
    for name in strided:
        layer = model.get_layer(name)
        assert layer.padding == "valid"
        if layer.kernel_size != (1, 1):
            pad = model.get_layer(name.replace("_conv", "_pad"))
            size = layer.kernel_size[0] // 2
            assert pad.padding == ((size, size), (size, size))
    assert model.get_layer("pool1_pad").padding == ((1, 1), (1, 1))
    has_shortcut = [
        layer.name[4]
        for layer in kernels(model)
        if layer.name.endswith("_0_conv")
    ]
    assert has_shortcut == (["2"] if last == "3" else []) + ["3", "4", "5"]


def test_only_the_classifier_has_a_bias():
    for build in (ResNet18, ResNet50):
        biased = [i.name for i in kernels(build()) if i.bias is not None]
        assert biased == ["fc_conv"]


@pytest.mark.parametrize("channels_last", [True, False])
def test_preprocess_input(channels_last):
    mean = np.array([0.485, 0.456, 0.406])
    deviation = np.array([0.229, 0.224, 0.225])
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), "uint8")
    expected = (x / 255 - mean) / deviation
    data_format = None
    if not channels_last:
        x, expected = np.moveaxis(x, -1, 1), np.moveaxis(expected, -1, 1)
        data_format = "channels_first"
    y = resnet.preprocess_input(x, data_format=data_format)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="data_format"):
        resnet.preprocess_input(x, data_format="NHWC")


def test_decode_predictions_is_that_of_keras(monkeypatch):
    calls = []
    monkeypatch.setattr(
        keras.applications.imagenet_utils,
        "decode_predictions",
        lambda preds, top: calls.append((preds, top)) or "decoded",
    )
    preds = np.zeros((1, 1000))
    assert resnet.decode_predictions(preds) == "decoded"
    assert resnet.decode_predictions(preds, top=3) == "decoded"
    assert calls == [(preds, 5), (preds, 3)]


def test_decode_predictions_refuses_other_classes():
    with pytest.raises(ValueError, match="1000"):
        resnet.decode_predictions(np.zeros((1, 10)))
