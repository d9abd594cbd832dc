"""Integer networks: bit by bit against NumPy, and against a simulation."""

import functools
import itertools

import fused_oracle
import fused_simulation as simulation
import keras
import numpy as np
import pytest
from fused_networks import SHAPE
from fused_networks import block
from fused_networks import dense
from fused_networks import depthwise
from fused_networks import difference
from fused_networks import images
from fused_networks import mobile
from fused_networks import outputs_of
from fused_networks import ready
from fused_networks import residual

from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import inference
from keras_adder.inference.requantize import Requantize
from keras_adder.layers.adder_layer import AdderLayer
from keras_adder.layers.fused_adder_layer import FusedAdderLayer

# The fused layers of `residual()`.
NAMES = ["a0", "a1", "a2", "b1", "b2"]
NETWORKS = {"residual": residual, "mobile": mobile, "depthwise": depthwise}


@functools.cache
def optimized(network, precision):
    """A network, and what becomes of it."""
    keras.utils.set_random_seed(3)
    model = NETWORKS[network]()
    return model, inference.optimize(model, precision, images())


@pytest.fixture(params=["int8", "int16"])
def fast(request):
    return optimized("residual", request.param)[1]


@pytest.fixture(
    params=itertools.product(NETWORKS, ["int8", "int16"]), ids="-".join
)
def pair(request):
    return optimized(*request.param)


def behind(layer):
    """The arguments of NumPy's epilogue."""
    names = ("lower", "upper", "residual_scale", "residual_zero_point")
    names += ("output_dtype", "output_scale", "output_zero_point")
    return {name: getattr(layer, name) for name in names} | {
        "multiplier": np.asarray(layer.multiplier),
        "offset": np.asarray(layer.offset),
    }


def as_images(x):
    if x is None:
        return None
    x = np.asarray(x)
    return x if x.ndim == 4 else x[:, None]


def calls(model, x):
    """Of each adder layer what it takes, what it adds, and what it hands on."""
    tensors = {
        layer.name: [layer.input, layer.output]
        for layer in model.layers
        if isinstance(layer, (FusedAdderLayer, AdderLayer))
    }
    found = keras.Model(model.inputs[0], tensors)(x)
    for name, (inputs, output) in found.items():
        source, added = [*keras.tree.flatten(inputs), None][:2]
        yield name, as_images(source), as_images(added), as_images(output)


def test_every_layer_is_numpys(pair):
    for name, source, added, output in calls(pair[1], images(4, seed=5)):
        layer = pair[1].get_layer(name)
        padding = layer.padding
        np.testing.assert_array_equal(
            output,
            fused_oracle.fused_adder_conv2d(
                source,
                np.asarray(layer.kernel),
                strides=layer.strides,
                padding=padding if type(padding) is tuple else padding.upper(),
                input_scale=layer.input_scale,
                input_zero_point=layer.input_zero_point,
                residual=added,
                **behind(layer),
            ),
            err_msg=name,
        )


def test_types(fast):
    integers = {"uint8", "int16"} & {
        fast.get_layer(name).output_dtype for name in NAMES
    }
    (dtype,) = integers
    assert all(fast.get_layer(name).filter_dtype == dtype for name in NAMES)
    found = {name: fast.get_layer(name).output_dtype for name in NAMES}
    # The last one goes to a pooling.
    assert found == dict.fromkeys(["a0", "a1", "a2", "b1"], dtype) | {
        "b2": "float32"
    }


def test_one_tensor_has_one_quantization(fast):
    def scales(name, kind):
        layer = fast.get_layer(name)
        return tuple(
            getattr(layer, f"{kind}_{x}") for x in ("scale", "zero_point")
        )

    assert scales("a0", "input") == scales("a1", "input")
    assert scales("a1", "output") == scales("a2", "input")
    assert scales("a0", "output") == scales("a2", "residual")
    block_output = scales("a2", "output")
    assert block_output == scales("b1", "input") == scales("b2", "residual")


def real(array, scale, zero_point):
    if array.dtype.kind == "f":
        return array.astype("float64")
    return (array.astype("float64") - zero_point) * scale


def test_every_layer_is_its_simulation(pair):
    """From the original's weights, with rounded inputs and filters.

    And with the mean of what rounding does to the calibration's images.
    """
    model, fast = pair
    found = {name: arrays for name, *arrays in calls(fast, images(8, seed=5))}
    for original, seen, _, _ in calls(model, images()):
        original = model.get_layer(original)
        for name, *part in simulation.passes(original):
            y, seen = simulated(fast.get_layer(name), found[name], part, seen)
            if name == original.name:
                y = y + (np.asarray(original.bias) if original.use_bias else 0)
                y = simulation.normalize(y, model.get_layer(f"{name}_bn"))
            assert_simulated(y, fast.get_layer(name), *found.pop(name)[1:])
    assert not found


def simulated(layer, arrays, part, seen):
    """A layer's distances, of integers as well as of the calibration."""
    kernel, geometry = part
    exact = simulation.oracle.adder_conv2d(seen, kernel, **geometry)
    errors = exact - simulation.distance(seen, kernel, layer, **geometry)
    x = real(arrays[0], layer.input_scale, layer.input_zero_point)
    if layer.name.endswith("explicit") or layer.name == "a_depthwise":
        x = np.pad(x, ((0, 0), (0, 1), (1, 1), (0, 0)))  # What was folded.
    y = simulation.distance(x, kernel, layer, **geometry)
    return y + errors.mean((0, 1, 2)), exact


def assert_simulated(y, layer, added, output):
    if added is not None:
        y = y + real(added, layer.residual_scale, layer.residual_zero_point)
    if layer.lower is not None:
        y = np.clip(y, layer.lower, layer.upper)
    expected = simulation.stored(y, layer)
    output = real(output, layer.output_scale, layer.output_zero_point)
    off = np.abs(expected - output)
    if layer.output_dtype == "float32":
        assert off.max() < 1e-4 * np.ptp(expected)
    else:
        # Between two integers, float32 and float64 may take either.
        assert off.max() < layer.output_scale + 2e-5 * np.ptp(expected)
        few = 0.002 if layer.output_dtype == "uint8" else 0.2
        assert np.mean(off > 0.5 * layer.output_scale) < few


@pytest.mark.parametrize(
    "precision, kwargs, bound",
    [
        ("float32", {}, 1e-5),
        ("int16", {}, 1e-3),
        ("int8", {}, 0.05),
        ("int8", {"percentile": 99.9}, 0.1),
        ("int8", {"bits": 6}, 0.15),
    ],
)
def test_errors_are_small(model, precision, kwargs, bound):
    x = images()
    fast = inference.optimize(model, precision, x, **kwargs)
    assert difference(fast, model, x) < bound
    # Unless there are integers, nothing is off.
    assert (difference(fast, model, x) > 0) or precision == "float32"


def test_dense():
    model = dense()
    x = images(64, (12,))
    fast = inference.optimize(model, "int8", x)
    assert difference(fast, model, x) < 0.05
    layers = [fast.get_layer(name) for name in ("d1", "d2", "d3")]
    assert [i.output_dtype for i in layers] == ["uint8", "uint8", "float32"]
    assert layers[0].input_zero_point > 0  # signed
    assert layers[2].input_zero_point == 0 and layers[1].upper == 6.0
    x, added = x[:, None, None], None
    for layer in layers:
        x = fused_oracle.fused_adder_conv2d(
            x,
            np.asarray(layer.kernel)[None, None],
            input_scale=layer.input_scale,
            input_zero_point=layer.input_zero_point,
            residual=added,
            **behind(layer),
        )
    found = fast(images(64, (12,)))
    np.testing.assert_array_equal(x[:, 0, 0], found)


def test_signed_inputs():
    """Without a ReLU, and of negative values alone."""
    inputs = keras.Input(SHAPE)
    x = block(inputs, name="c1", relu=False)
    x = AdderConv2D(4, 3, padding="same", name="c2")(x)
    x = AdderConv2D(4, 1, name="c3", use_bias=False)(x)
    x = AdderConv2D(4, 1, name="c4", use_bias=False)(x)
    model = ready(keras.Model(inputs, x))
    fast = inference.optimize(model, "int8", images())
    points = [fast.get_layer(f"c{i}").input_zero_point for i in range(1, 5)]
    assert 0 < points[0] < 255 and 0 < points[1] < 255
    assert points[3] == 255
    assert difference(fast, model, images()) < 0.05


@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_few_bits(model, bits):
    levels = 2**bits - 1
    fast = inference.optimize(model, "int8", images(), bits=bits)
    added = [i for i in fast.layers if isinstance(i, Requantize)]
    # Inputs that are float, or residuals as well.
    assert [i.name for i in added] == ["a1_input", "b1_input"]
    found = outputs_of(
        fast, [*NAMES, *(i.name for i in added)], 3 * images(seed=5)
    )
    taken = {"a0": "a1_input", "a1": "a1_input", "a2": "a1"}
    for name, source in (taken | {"b1": "b1_input", "b2": "b1"}).items():
        layer = fast.get_layer(name)
        assert np.asarray(layer.kernel).max() <= levels
        assert found[source].dtype == "uint8"
        assert found[source].min() == 0 and found[source].max() == levels
    # The skip path has 8 bits.
    assert found["a2"].max() == 255 and found["a0"].max() == 255


def test_few_bits_of_what_is_stored(model):
    """They are those that NumPy makes of what is stored with 8 bits."""
    fast = inference.optimize(model, "int8", images(), bits=4, percentile=99.0)
    layer = fast.get_layer("b1_input")
    found = outputs_of(fast, ["a2", "b1_input"], images(seed=5))
    full = fast.get_layer("a2")
    numbers = real(found["a2"], full.output_scale, full.output_zero_point)
    expected = np.clip(np.rint(numbers / layer.scale), 0, 15)
    off = found["b1_input"] - expected
    assert np.abs(off).max() <= 1 and np.mean(off != 0) < 0.002
    # Residuals keep all of their range.
    assert 255 * full.output_scale > 1.05 * 15 * layer.scale


def test_int16_that_would_leave_32_bits():
    """33 thousand taps are too many; the layer computes in float32."""
    model = ready(
        keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(33_000, activation="relu"),
                AdderDense(3, use_bias=False, name="wide"),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                AdderDense(4, use_bias=False, name="narrow"),
                keras.layers.BatchNormalization(),
            ]
        )
    )
    x = images(shape=(6,))
    fast = inference.optimize(model, "int16", x)
    assert fast.get_layer("wide").filter_dtype == "float32"
    assert fast.get_layer("wide").output_dtype == "int16"
    assert fast.get_layer("narrow").filter_dtype == "int16"
    assert difference(fast, model, x) < 1e-2
    report = inference.report(model, fast, print_fn=lambda text: None)
    assert {i.name: i.reason for i in report.kept}["wide"] == (
        "its sums might leave 32 bits"
    )
    fast = inference.optimize(model, "int8", x)
    assert fast.get_layer("wide").filter_dtype == "uint8"
