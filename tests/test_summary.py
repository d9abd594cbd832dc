"""What a model costs, beside counts by hand."""

import json

import keras
import numpy as np
import pytest
from applications.counting import multiplications
from keras import layers

import keras_adder
from keras_adder import AdderConv1D
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import AdderDepthwiseConv2D
from keras_adder import AdderSeparableConv2D
from keras_adder.applications import LeNet5
from keras_adder.applications import ResNet20
from keras_adder.applications import ResNet50
from keras_adder.applications import VGGSmall
from keras_adder.layers import FusedAdderConv1D
from keras_adder.layers import FusedAdderConv2D
from keras_adder.layers import FusedAdderDense
from keras_adder.operations import Operations


def summarize(model, twin=None):
    return keras_adder.summary(model, twin, print_fn=lambda text: None)


def row_of(layer, *shapes, dtype="float32"):
    """The row of one layer, or function, on inputs of some shapes."""
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    outputs = layer(inputs[0] if len(inputs) == 1 else inputs)
    (row,) = summarize(keras.Model(inputs, outputs)).rows
    return row


def test_lenet5_by_hand():
    table = summarize(LeNet5(), twin=LeNet5(adder=False))
    products = 28 * 28 * 25 * 6 + 10 * 10 * 25 * 6 * 16
    products += 400 * 120 + 120 * 84 + 84 * 10
    assert table.weighted == Operations(0, 2 * products)
    assert table.twin.weighted == Operations(products, products)
    assert products == 416_520

    normalized = 28 * 28 * 6 + 10 * 10 * 16 + 120 + 84 + 10
    rectified = normalized - 10
    pooled = 3 * (14 * 14 * 6 + 5 * 5 * 16)
    softmax = Operations(2 * 10, 9 + 10 + 10)
    rest = softmax + Operations(normalized, normalized + rectified + pooled)
    assert table.total == table.weighted + rest
    assert table.twin.total == table.twin.weighted + rest
    assert table.unknown == table.twin.unknown == []
    # The paper's figures, which are of about 435K products: 1.7M and 2.6M.
    assert table.weighted.cycles == 2 * 2 * products == 1_666_080
    assert table.twin.weighted.cycles == (4 + 2) * products == 2_499_120


def test_resnet20_by_hand():
    cnn = summarize(ResNet20(adder=False))
    assert cnn.weighted == Operations(40_813_184, 40_813_184)
    adder = summarize(ResNet20())
    # The first convolution and the classifier are ordinary.
    ordinary = 32 * 32 * 27 * 16 + 64 * 10
    assert adder.weighted == Operations(
        ordinary, 2 * (40_813_184 - ordinary) + ordinary
    )
    stages = [32 * 32 * 16, 16 * 16 * 32, 8 * 8 * 64]
    # Seven a stage: the stem or the shortcut, and three blocks of two.
    normalized = 7 * sum(stages) + 10
    rectified = stages[0] + 6 * sum(stages)
    added = 3 * sum(stages)
    rest = Operations(
        normalized + 64 + 2 * 10,
        normalized + rectified + added + 8 * 8 * 64 + 29,
    )
    assert adder.total == adder.weighted + rest
    assert cnn.total == cnn.weighted + rest


@pytest.mark.parametrize("build", [VGGSmall, ResNet50])
def test_others_agree_with_the_walk_over_the_shapes(build):
    cnn = build(adder=False)
    table = summarize(cnn)
    products = multiplications(cnn)
    assert table.weighted == Operations(products, products)
    assert table.parameters == cnn.count_params()
    assert table.unknown == []


def test_cycles_and_energy():
    operations = Operations(multiplications=3_000_000, additions=2_000_000)
    assert operations.cycles == 4 * 3_000_000 + 2 * 2_000_000
    assert operations.microjoules == pytest.approx(3 * 3.7 + 2 * 0.9)


# Each with the shapes of its inputs and its multiplications and additions.
@pytest.mark.parametrize(
    "layer, shapes, expected",
    [
        # Convolutions and dense layers.
        (layers.Conv2D(6, (3, 2)), [(7, 6, 4)], (5 * 5 * 6 * 6 * 4,) * 2),
        (
            layers.Conv2D(6, 3, strides=2, padding="same", groups=2),
            [(7, 6, 4)],
            (4 * 3 * 9 * 2 * 6,) * 2,
        ),
        (layers.Conv2D(6, 3, dilation_rate=2), [(7, 6, 4)], (3 * 2 * 216,) * 2),
        (
            layers.Conv2D(2, 1, data_format="channels_first"),
            [(3, 5, 4)],
            (5 * 4 * 3 * 2,) * 2,
        ),
        (
            layers.Conv2D(6, 1, activation="relu"),
            [(2, 2, 4)],
            (96, 96 + 24),
        ),
        (AdderConv2D(6, (3, 2)), [(7, 6, 4)], (0, 2 * 5 * 5 * 6 * 6 * 4)),
        (
            AdderConv2D(6, 3, strides=2, padding="same", groups=2),
            [(7, 6, 4)],
            (0, 2 * 4 * 3 * 9 * 2 * 6),
        ),
        (layers.Conv1D(6, 3), [(7, 4)], (5 * 3 * 4 * 6,) * 2),
        (AdderConv1D(6, 3), [(7, 4)], (0, 2 * 5 * 3 * 4 * 6)),
        (
            AdderConv1D(6, 3, groups=2, padding="causal"),
            [(7, 4)],
            (0, 2 * 7 * 3 * 2 * 6),
        ),
        (layers.Conv3D(6, 2), [(3, 3, 3, 4)], (8 * 8 * 4 * 6,) * 2),
        (layers.Dense(6), [(4,)], (24, 24)),
        (layers.Dense(6), [(5, 3, 4)], (15 * 24,) * 2),
        (AdderDense(6), [(4,)], (0, 48)),
        (AdderDense(6), [(5, 3, 4)], (0, 15 * 48)),
        (
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            [(7, 6, 4)],
            (5 * 4 * 9 * 4 * 2,) * 2,
        ),
        (
            AdderDepthwiseConv2D(3, depth_multiplier=2),
            [(7, 6, 4)],
            (0, 2 * 5 * 4 * 9 * 4 * 2),
        ),
        (layers.DepthwiseConv1D(3), [(7, 4)], (5 * 3 * 4,) * 2),
        (
            layers.SeparableConv2D(6, 3, depth_multiplier=2),
            [(7, 6, 4)],
            (5 * 4 * (9 * 8 + 8 * 6),) * 2,
        ),
        (
            AdderSeparableConv2D(6, 3, depth_multiplier=2),
            [(7, 6, 4)],
            (0, 2 * 5 * 4 * (9 * 8 + 8 * 6)),
        ),
        (layers.SeparableConv1D(6, 3), [(7, 4)], (5 * (12 + 24),) * 2),
        # At each position of the input.
        (
            layers.Conv2DTranspose(6, 3, strides=2),
            [(7, 5, 4)],
            (7 * 5 * 9 * 4 * 6,) * 2,
        ),
        (layers.Conv1DTranspose(6, 3), [(7, 4)], (7 * 3 * 4 * 6,) * 2),
        (layers.Conv3DTranspose(6, 2), [(2, 2, 2, 4)], (8 * 8 * 24,) * 2),
        # One element at a time.
        (layers.BatchNormalization(), [(3, 4)], (12, 12)),
        (layers.Normalization(), [(3, 4)], (12, 12)),
        (layers.Rescaling(2.0), [(3, 4)], (12, 12)),
        (layers.ReLU(), [(3, 4)], (0, 12)),
        (layers.ReLU(max_value=6), [(3, 4)], (0, 24)),
        (layers.ReLU(negative_slope=0.1), [(3, 4)], (12, 12)),
        (layers.LeakyReLU(), [(3, 4)], (12, 12)),
        (layers.PReLU(), [(3, 4)], (12, 12)),
        (layers.Activation("linear"), [(3, 4)], (0, 0)),
        (layers.Activation("relu"), [(3, 4)], (0, 12)),
        (layers.Activation("relu6"), [(3, 4)], (0, 24)),
        (layers.Activation("sigmoid"), [(3, 4)], (24, 12)),
        (layers.Activation("tanh"), [(3, 4)], (24, 48)),
        (layers.Activation("silu"), [(3, 4)], (36, 12)),
        (layers.Activation("hard_sigmoid"), [(3, 4)], (12, 36)),
        (layers.Activation("hard_silu"), [(3, 4)], (24, 36)),
        (layers.Activation("softmax"), [(3, 4)], (24, 3 * (3 + 4 + 4))),
        (layers.Softmax(axis=1), [(3, 4)], (24, 4 * (2 + 3 + 3))),
        # Poolings.
        (layers.MaxPooling2D((2, 3)), [(4, 6, 5)], (0, 4 * 5 * 5)),
        (layers.MaxPooling1D(2), [(4, 5)], (0, 10)),
        (layers.AveragePooling2D((2, 3)), [(4, 6, 5)], (20, 20 * 6)),
        (layers.GlobalMaxPooling2D(), [(4, 6, 5)], (0, 5 * 23)),
        (layers.GlobalAveragePooling2D(), [(4, 6, 5)], (5, 5 * 24)),
        # Of three inputs.
        (layers.Add(), [(3, 4)] * 3, (0, 24)),
        (layers.Maximum(), [(3, 4)] * 3, (0, 24)),
        (layers.Minimum(), [(3, 4)] * 3, (0, 24)),
        (layers.Multiply(), [(3, 4)] * 3, (24, 0)),
        (layers.Average(), [(3, 4)] * 3, (12, 24)),
        (layers.Subtract(), [(3, 4)] * 2, (0, 12)),
        (layers.Multiply(), [(3, 1), (3, 4)], (12, 0)),
        # For nothing.
        (layers.Concatenate(), [(3, 4)] * 3, (0, 0)),
        (layers.Dropout(0.5), [(3, 4)], (0, 0)),
        (layers.Flatten(), [(3, 4)], (0, 0)),
        (layers.ZeroPadding2D(1), [(3, 4, 5)], (0, 0)),
        (layers.UpSampling2D(2), [(3, 4, 5)], (0, 0)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_rules(layer, shapes, expected):
    assert row_of(layer, *shapes).operations == Operations(*expected)


# Outputs of the layers below.
CONV, CONV1D, DENSE = 5 * 4 * 6, 4 * 6, 3 * 6
QUANTIZED = {"output_dtype": "uint8", "output_scale": 2.0}


@pytest.mark.parametrize(
    "build, arguments, dtypes, expected",
    [
        # A multiplier and an offset.
        ("conv", {}, ["uint8"], (CONV, CONV * (2 * 36 + 1))),
        ("conv", {"groups": 2}, ["uint8"], (CONV, CONV * (2 * 18 + 1))),
        ("dense", {}, ["uint8"], (DENSE, DENSE * (2 * 4 + 1))),
        # Bounds, a residual, and integers to make of the outputs.
        ("conv", {"lower": 0.0}, ["uint8"], (CONV, CONV * (72 + 2))),
        (
            "conv",
            {"lower": 0.0, "upper": 6.0},
            ["uint8", "float32"],
            (CONV, CONV * (72 + 4)),
        ),
        ("conv", QUANTIZED, ["uint8"], (2 * CONV, CONV * 73)),
        ("conv1d", {}, ["uint8"], (CONV1D, CONV1D * 25)),
        ("dense", QUANTIZED, ["uint8", "uint8"], (3 * DENSE, DENSE * 10)),
        # And of the inputs.
        ("conv", {}, ["float32"], (CONV + 7 * 6 * 4, CONV * 73)),
        ("conv", {"filter_dtype": "float32"}, ["float32"], (CONV, CONV * 73)),
    ],
)
def test_fused_layers_take_what_follows_the_distances(
    build, arguments, dtypes, expected
):
    if build == "conv":
        layer, shapes = FusedAdderConv2D(6, 3, **arguments), [(7, 6, 4)]
    elif build == "conv1d":
        layer, shapes = FusedAdderConv1D(6, (1, 3), **arguments), [(6, 4)]
    else:
        layer, shapes = FusedAdderDense(6, **arguments), [(3, 4)]
    shapes.append(layer.compute_output_shape((None, *shapes[0]))[1:])
    inputs = [
        keras.Input(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes)
    ]
    (row,) = summarize(keras.Model(inputs, layer(*inputs))).rows
    assert row.operations == Operations(*expected)
    assert row.is_weighted


class MyConv2D(layers.Conv2D):
    pass


@pytest.mark.parametrize(
    "layer, shapes",
    [
        (MyConv2D(2, 3), [(5, 5, 3)]),
        (layers.Conv2D(2, 3, activation="gelu"), [(5, 5, 3)]),
        (layers.Activation("gelu"), [(3, 4)]),
        (layers.UpSampling2D(2, interpolation="bilinear"), [(3, 4, 5)]),
        (layers.LayerNormalization(), [(3, 4)]),
        (layers.EinsumDense("abc,cd->abd", (3, 6)), [(3, 4)]),
        (layers.LSTM(3), [(3, 4)]),
        (layers.TimeDistributed(layers.Dense(2)), [(3, 4)]),
        (layers.Softmax(axis=(1, 2)), [(3, 4)]),
        (layers.Dot(axes=1), [(3, 4), (3, 4)]),
        (keras.ops.exp, [(3, 4)]),
        (layers.Dense(2, dtype="int8_from_float32"), [(4,)]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_is_unknown_is_never_zero(layer, shapes, capsys):
    row = row_of(layer, *shapes)
    assert row.operations is None
    inputs = [keras.Input(shape) for shape in shapes]
    outputs = layer(inputs[0] if len(inputs) == 1 else inputs)
    model = keras.Model(inputs, layers.ReLU()(outputs))
    table = keras_adder.summary(model, twin=model)
    assert table.unknown == [table.rows[0].name]
    assert table.weighted == Operations()
    assert table.total == table.rows[1].operations
    name, text = table.rows[0].name, capsys.readouterr().out
    assert f"Not counted in the model, as unknown: {name}\n" in text
    assert f"Not counted in the twin, as unknown: {name}\n" in text
    assert "unknown     unknown" in text


def test_lora_is_unknown():
    layer = layers.Dense(6)
    model = keras.Sequential([keras.Input((4,)), layer])
    layer.enable_lora(2)
    assert summarize(model).unknown == [layer.name]


def test_a_size_that_depends_on_the_data_is_unknown():
    inputs = keras.Input((3, 4))
    flat = keras.layers.Lambda(
        lambda x: x, output_shape=lambda shape: (shape[0], None, 4)
    )(inputs)
    model = keras.Model(inputs, layers.ReLU()(flat))
    assert len(summarize(model).unknown) == 2


def test_nested_and_shared_layers():
    shared = layers.Dense(5, name="shared")
    backbone = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            AdderConv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="bn"),
        ],
        name="backbone",
    )
    left, right = keras.Input((8, 8, 3)), keras.Input((6, 5, 3))
    pool = layers.GlobalMaxPooling2D(name="pool")
    outputs = [shared(pool(backbone(x))) for x in (left, right)]
    model = keras.Model([left, right], outputs)
    table = summarize(model)
    by_size = {
        row.output_shape: row for row in table.rows if row.name.endswith("conv")
    }
    assert by_size.keys() == {(6, 6, 4), (4, 3, 4)}
    for (height, width, _), row in by_size.items():
        assert row.name == "backbone/conv"
        assert row.operations == Operations(0, 2 * height * width * 27 * 4)
    assert [row.name for row in table.rows].count("shared") == 2
    assert table.parameters == model.count_params()


def test_rows_have_the_batch_left_out():
    inputs = keras.Input(batch_shape=(16, 4, 4, 3))
    split = keras.Model(inputs, [layers.ReLU(name="relu")(inputs), inputs])
    fixed = summarize(split)
    assert fixed.rows[0].output_shape == (4, 4, 3)
    assert fixed.total == Operations(0, 48)


def test_as_dict_is_json():
    table = summarize(LeNet5(), twin=LeNet5(adder=False))
    read = json.loads(json.dumps(table.as_dict()))
    assert read["name"] == "lenet5"
    assert read["parameters"] == 62_414
    assert read["unknown"] == []
    assert read["weighted"] == {
        "multiplications": 0,
        "additions": 833_040,
        "cycles": 1_666_080,
        "microjoules": pytest.approx(0.749736),
    }
    assert read["twin"]["weighted"]["multiplications"] == 416_520
    assert read["twin"]["twin"] is None
    assert read["rows"][0] == {
        "name": "conv1_conv",
        "layer_type": "AdderConv2D",
        "output_shape": [28, 28, 6],
        "parameters": 150,
        "operations": {
            "multiplications": 0,
            "additions": 235_200,
            "cycles": 470_400,
            "microjoules": pytest.approx(0.21168),
        },
        "is_weighted": True,
    }
    unknown = summarize(keras.Sequential([keras.Input((3, 4)), layers.GRU(2)]))
    assert unknown.as_dict()["rows"][0]["operations"] is None


def test_the_table_is_printed(capsys):
    table = keras_adder.summary(LeNet5(), twin=LeNet5(adder=False))
    text = capsys.readouterr().out
    assert text == f"{table}\n"
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == 'Model: "lenet5"'
    assert "conv1_conv (AdderConv2D) (28, 28, 6) 150 0 235,200" in lines
    assert "Parameters 62,414 62,414 1.00" in lines
    assert "Multiplications, convolutions, dense 0 416,520 0.00" in lines
    assert "Cycles, convolutions, dense 1,666,080 2,499,120 0.67" in lines
    assert "Energy in µJ, convolutions, dense 0.750 1.916 0.39" in lines
    # Nothing is cut off, whatever the width of the terminal.
    assert "…" not in text


def test_names_are_not_markup():
    model = keras.Sequential(
        [keras.Input((3,)), layers.ReLU(name="[red]name[bold]")], name="[b]"
    )
    text = str(summarize(model))
    assert "[red]name[bold] (ReLU)" in text and 'Model: "[b]"' in text


def test_a_twin_without_multiplications():
    text = str(summarize(LeNet5(adder=False), twin=LeNet5()))
    line = next(i for i in text.splitlines() if "Multiplications, conv" in i)
    assert line.split()[-3:] == ["416,520", "0", "-"]


def test_the_model_is_left_alone():
    model = ResNet20()
    model.compile("sgd", "mse")
    outputs = [layer.output for layer in model.layers]
    summarize(model)
    for layer, output in zip(model.layers, outputs):
        assert layer.output is output
    assert not any(np.isnan(v.numpy()).any() for v in model.variables)


def test_refusals():
    with pytest.raises(TypeError, match="`model` must be a `keras.Model`"):
        summarize(layers.Dense(3))
    with pytest.raises(ValueError, match="built.*Sequential"):
        summarize(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match=r"known size.*\(None, None, None, 3"):
        summarize(ResNet20(include_top=False))
    with pytest.raises(ValueError, match="known size"):
        summarize(ResNet20(), twin=ResNet20(input_shape=(None, 32, 3)))
