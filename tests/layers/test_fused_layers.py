"""The fused layers: what they compute, and that Keras takes them for layers."""

import json
import subprocess
import sys

import fused_oracle
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adder.layers import FusedAdderConv2D
from keras_adder.layers import FusedAdderDense
from keras_adder.ops import fused_adder_conv2d

EPILOGUE = dict(
    lower=-50.0,
    upper=90.0,
    input_scale=0.05,
    input_zero_point=40,
    residual_scale=0.5,
    residual_zero_point=3,
    output_dtype="uint8",
    output_scale=0.75,
    output_zero_point=70,
)


FACTORIES = {
    "conv": lambda **kw: FusedAdderConv2D(3, 1, **kw),
    "dense": lambda **kw: FusedAdderDense(3, **kw),
}


def set_weights(layer, seed=0):
    """Integers of the whole range, and a factor that makes them units."""
    rng = np.random.default_rng(seed)
    kernel, multiplier = layer.kernel, layer.multiplier
    if layer.filter_dtype == "float32":
        values = rng.normal(size=kernel.shape).astype("float32")
    else:
        info = np.iinfo(layer.filter_dtype)
        values = rng.integers(
            info.min, info.max, kernel.shape, info.dtype, endpoint=True
        )
    size = 50 / (values.astype("float64").std() * np.prod(kernel.shape[:-1]))
    layer.set_weights(
        [
            values,
            (rng.normal(1, 0.5, multiplier.shape) * size).astype("float32"),
            rng.normal(40, 9, multiplier.shape).astype("float32"),
        ]
    )


def images(*shape, dtype="uint8", seed=1):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def same(actual, exact):
    actual, exact = map(keras.ops.convert_to_numpy, (actual, exact))
    assert actual.dtype == exact.dtype
    np.testing.assert_array_equal(actual, exact)


def oracle_of(layer, x, residual=None, kernel=None, **geometry):
    behind = {name: getattr(layer, name) for name in EPILOGUE}
    if not isinstance(residual, np.ndarray) or residual.dtype == "float32":
        behind.update(residual_scale=1.0, residual_zero_point=0)
    kernel = (
        keras.ops.convert_to_numpy(layer.kernel) if kernel is None else kernel
    )
    return fused_oracle.fused_adder_conv2d(
        x,
        kernel,
        multiplier=keras.ops.convert_to_numpy(layer.multiplier),
        offset=keras.ops.convert_to_numpy(layer.offset),
        residual=residual,
        **geometry,
        **behind,
    )


def without_residual(**changes):
    arguments = {**EPILOGUE, **changes}
    arguments.pop("residual_scale")
    arguments.pop("residual_zero_point")
    return arguments


class TestConv2D:
    def test_computes_what_the_op_does(self):
        layer = FusedAdderConv2D(
            6, (3, 2), (2, 1), "same", groups=2, **EPILOGUE
        )
        x, residual = images(2, 7, 8, 4), images(2, 4, 8, 6)
        layer.build(x.shape)
        set_weights(layer)
        y = layer(x, residual=residual)
        exact = oracle_of(layer, x, residual, strides=(2, 1), padding="SAME")
        same(y, exact)
        assert len(np.unique(exact)) > 20

    @pytest.mark.parametrize("padding", ["valid", ((0, 2), (1, 0))])
    @pytest.mark.parametrize("x_dtype", ["uint8", "float32"])
    def test_channels_first_paddings_and_floats(self, padding, x_dtype):
        layer = FusedAdderConv2D(
            5,
            3,
            padding=padding,
            data_format="channels_first",
            dilation_rate=2,
            **without_residual(),
        )
        x = images(2, 3, 7, 8, dtype=x_dtype)
        layer.build(x.shape)
        set_weights(layer)
        geometry = dict(
            padding="VALID" if padding == "valid" else padding,
            dilations=(2, 2),
            data_format="NCHW",
        )
        exact = oracle_of(layer, x, **geometry)
        same(layer(x), exact)
        assert layer.compute_output_shape(x.shape) == exact.shape

    @pytest.mark.parametrize("filter_dtype", ["uint8", "int16", "float32"])
    @pytest.mark.parametrize("output_dtype", ["float32", "uint8", "int16"])
    def test_dtypes(self, filter_dtype, output_dtype):
        layer = FusedAdderConv2D(
            3, 3, filter_dtype=filter_dtype, output_dtype=output_dtype
        )
        y = layer(images(1, 4, 4, 2, dtype=filter_dtype))
        assert y.dtype == output_dtype
        spec = layer(keras.Input((4, 4, 2), dtype=filter_dtype))
        assert spec.dtype == output_dtype
        assert spec.shape == (None, 2, 2, 3)
        dtypes = [variable.dtype for variable in layer.weights]
        assert dtypes == [filter_dtype, "float32", "float32"]

    def test_unknown_sizes(self):
        layer = FusedAdderConv2D(3, 3, padding="same", strides=2)
        spec = layer(keras.Input((None, 9, 2), dtype="uint8"))
        assert spec.shape == (None, None, 5, 3)

    def test_fresh_weights(self):
        layer = FusedAdderConv2D(3, 3)
        y = layer(np.ones((1, 3, 3, 2), "uint8"))
        same(y, np.full((1, 1, 1, 3), -18, "float32"))


class TestDense:
    @pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 2, 2)])
    @pytest.mark.parametrize("x_dtype", ["uint8", "float32"])
    def test_computes_what_the_op_does(self, shape, x_dtype):
        layer = FusedAdderDense(7, **EPILOGUE)
        x = images(*shape, 5, dtype=x_dtype)
        residual = images(*shape, 7)
        layer.build(x.shape)
        set_weights(layer)
        exact = oracle_of(
            layer,
            x.reshape(-1, 1, 1, 5),
            residual.reshape(-1, 1, 1, 7),
            keras.ops.convert_to_numpy(layer.kernel)[None, None],
        ).reshape(*shape, 7)
        same(layer(x, residual=residual), exact)
        assert layer.compute_output_shape(x.shape) == exact.shape
        run = tf.function(layer, autograph=False)
        same(run(x, residual=residual), exact)

    def test_residual_of_another_shape(self):
        layer = FusedAdderDense(7)
        residual = np.ones((3, 2, 7), "float32")
        x = np.ones((2, 3, 5), "uint8")
        with pytest.raises(ValueError, match="`residual` must be a tensor of"):
            layer(x, residual=residual)
        with pytest.raises(ValueError, match="`residual` must be a tensor of"):
            layer(keras.Input((3, 5), dtype="uint8"), keras.Input((2, 7)))

    def test_channels_first_is_no_concern_of_it(self):
        keras.config.set_image_data_format("channels_first")
        try:
            layer = FusedAdderDense(3)
            same(layer(np.ones((2, 5), "uint8")), np.full((2, 3), -5, "f"))
        finally:
            keras.config.set_image_data_format("channels_last")

    def test_unknown_sizes(self):
        spec = FusedAdderDense(3)(keras.Input((None, 5), dtype="uint8"))
        assert spec.shape == (None, None, 3)


def make_model(filter_dtype="uint8"):
    """All that a network of these has: a block, and a dense layer behind."""
    epilogue = {**EPILOGUE, "filter_dtype": filter_dtype}
    if filter_dtype == "int16":
        fine = dict(input_scale=2e-4, output_dtype="int16", output_scale=2e-3)
        fine["residual_scale"] = 2e-3
        epilogue.update(fine)
    plain = {**epilogue, "residual_scale": 1.0, "residual_zero_point": 0}
    floats = {**plain, "output_dtype": "float32", "output_scale": 1.0}
    floats["output_zero_point"] = 0
    inputs = keras.Input((8, 8, 4))
    x = FusedAdderConv2D(6, 3, padding=((1, 1), (1, 1)), **plain)(inputs)
    y = FusedAdderConv2D(6, 3, padding="same", groups=2, **plain)(x)
    x = FusedAdderConv2D(6, 1, **epilogue)(y, residual=x)
    x = keras.layers.Flatten()(x)
    outputs = FusedAdderDense(3, **floats)(x)
    model = keras.Model(inputs, outputs)
    for seed, layer in enumerate(model.layers):
        if layer.weights:
            set_weights(layer, seed)
    return model


@pytest.fixture(params=["uint8", "int16"])
def model(request):
    return make_model(request.param)


@pytest.fixture
def floats():
    return images(3, 8, 8, 4, dtype="float32")


class TestModel:
    def test_dtypes_between_layers(self, model):
        kernel = model.layers[1].filter_dtype
        dtypes = [layer.output.dtype for layer in model.layers]
        assert dtypes == ["float32"] + [kernel] * 4 + ["float32"]

    def test_ways_to_run_it_agree(self, model, floats):
        y = model(floats)
        assert len(np.unique(y)) > 5
        same(model.predict(floats, verbose=0), y)
        same(tf.function(model)(floats), y)
        same(tf.concat([model(floats[i : i + 1]) for i in range(3)], 0), y)

    def test_nothing_is_trainable(self, model):
        assert model.trainable_variables == []
        assert len(model.non_trainable_variables) == 12
        model.trainable = True
        assert model.trainable_variables == []
        assert not any(layer.supports_jit for layer in model.layers[1:4])

    def test_keras_file(self, model, floats, tmp_path):
        path = tmp_path / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        same(loaded(floats), model(floats))
        for ours, theirs in zip(model.layers, loaded.layers):
            assert ours.get_config() == theirs.get_config()
        for ours, theirs in zip(model.weights, loaded.weights):
            assert ours.dtype == theirs.dtype
            same(ours, theirs)

    @pytest.mark.slow
    def test_keras_file_in_another_process(self, floats, tmp_path):
        model = make_model()
        model.save(tmp_path / "model.keras")
        np.save(tmp_path / "images.npy", floats)
        program = (
            "import sys, keras, numpy as np\n"
            "import keras_adder\n"
            "model = keras.saving.load_model(sys.argv[1] + '/model.keras')\n"
            "predictions = model(np.load(sys.argv[1] + '/images.npy'))\n"
            "np.save(sys.argv[1] + '/predictions.npy', predictions)\n"
        )
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], check=True
        )
        same(np.load(tmp_path / "predictions.npy"), model(floats))

    def test_weights_file(self, model, floats, tmp_path):
        path = tmp_path / "model.weights.h5"
        model.save_weights(path)
        other = keras.models.clone_model(model)
        assert not np.array_equal(other(floats), model(floats))
        other.load_weights(path)
        same(other(floats), model(floats))

    def test_json(self, model, floats):
        again = keras.models.model_from_json(model.to_json())
        again.set_weights(model.get_weights())
        same(again(floats), model(floats))

    def test_exported(self, model, floats, tmp_path):
        model.export(tmp_path / "exported", verbose=False)
        loaded = tf.saved_model.load(tmp_path / "exported")
        same(loaded.serve(floats), model(floats))

    def test_model_that_is_built_by_a_call(self):
        model = keras.Sequential(
            [
                FusedAdderConv2D(4, 3),
                keras.layers.GlobalMaxPooling2D(),
                FusedAdderDense(2, input_scale=9.0),
            ]
        )
        assert model(images(2, 5, 5, 3)).shape == (2, 2)

    def test_what_is_behind_is_trained(self, model, floats):
        outputs = keras.layers.Dense(1)(model.output)
        whole = keras.Model(model.input, outputs)
        whole.compile("sgd", "mse")
        before = model.get_weights()
        whole.fit(floats, np.ones((3, 1)), verbose=0)
        for ours, theirs in zip(model.get_weights(), before):
            same(ours, theirs)

    def test_what_is_before_is_not(self, floats):
        inputs = keras.Input((8, 8, 4))
        x = keras.layers.Dense(4)(inputs)
        model = keras.Model(inputs, FusedAdderConv2D(2, 8)(x))
        model.compile("sgd", "mse")
        with pytest.raises(LookupError, match="train the model"):
            model.fit(floats, np.ones((3, 1, 1, 2)), verbose=0)


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
class TestDtypes:
    @pytest.mark.parametrize(
        "policy", ["mixed_float16", "mixed_bfloat16", "float64"]
    )
    def test_policies_change_nothing(self, make, policy):
        layer = make(dtype=policy, input_scale=0.01)
        plain = make(input_scale=0.01)
        x = images(2, 4, 4, 5, dtype="float32")
        for one in (layer, plain):
            one.build(x.shape)
            set_weights(one)
        y = layer(x)
        assert [v.dtype for v in layer.weights] == ["uint8"] + ["float32"] * 2
        same(y, plain(x))
        assert layer(keras.Input((4, 4, 5))).dtype == "float32"

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_layers_around_cast_inputs_and_no_weights(self, make, policy):
        class Around(keras.layers.Layer):
            def call(self, x):
                return inner(x)

        inner = make(input_scale=0.01)
        x = images(2, 4, 4, 5, dtype="float32")
        inner.build(x.shape)
        set_weights(inner)
        rounded = tf.cast(tf.cast(x, policy.split("_")[1]), "float32")
        same(Around(dtype=policy)(x), inner(rounded))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    def test_other_floats_become_float32(self, make, dtype):
        layer = make(input_scale=0.02, input_zero_point=128)
        x = tf.cast(images(2, 4, 4, 5, dtype="float32"), dtype)
        residual = tf.cast(images(2, 4, 4, 3, dtype="float32"), dtype)
        y = layer(x, residual=residual)
        assert y.dtype == "float32"
        x, residual = tf.cast(x, "float32"), tf.cast(residual, "float32")
        same(y, layer(x, residual=residual))
        spec = layer(
            keras.Input((4, 4, 5), dtype=dtype),
            residual=keras.Input((4, 4, 3), dtype=dtype),
        )
        assert spec.dtype == "float32"

    @pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "bool"])
    def test_other_integers_are_refused(self, make, dtype):
        x = np.ones((2, 4, 4, 5), dtype)
        with pytest.raises(ValueError, match="`(inputs|filters)` must"):
            make()(x)
        with pytest.raises(ValueError, match="`(inputs|filters)` must"):
            make()(keras.Input((4, 4, 5), dtype=dtype))

    def test_sparse_inputs_are_refused(self, make):
        x = tf.sparse.from_dense(tf.ones((2, 4, 4, 5)))
        with pytest.raises(ValueError, match="`inputs` must be a dense tensor"):
            make().call(x)

    @pytest.mark.parametrize(
        "change, message",
        [
            (dict(filter_dtype="int8"), "`filter_dtype` must be one of"),
            (dict(filter_dtype=["uint8"]), "`filter_dtype` must be one of"),
            (dict(output_dtype="int32"), "`output_dtype` must be one of"),
            (dict(output_dtype="float16"), "`output_dtype` must be one of"),
            (dict(input_scale=0), "`input_scale` must be a positive"),
            (dict(input_scale=None), "`input_scale` must be a positive"),
            (dict(input_zero_point=300), "`input_zero_point` must be an int"),
            (
                dict(filter_dtype="float32", input_scale=2.0),
                "`input_scale` and `input_zero_point` must be 1 and 0",
            ),
            (dict(residual_scale="x"), "`residual_scale` must be a positive"),
            (dict(residual_zero_point=1e9), "`residual_zero_point` must be an"),
            (dict(output_scale=2.0), "`output_scale` and .* must be 1 and 0"),
            (
                dict(output_dtype="uint8", output_zero_point=-1),
                "`output_zero_point` must be an int",
            ),
            (dict(lower=float("nan")), "`lower` must be a float32 number"),
            (dict(lower=2, upper=1), "`lower` must not be greater"),
        ],
    )
    def test_bad_configurations_are_named(self, make, change, message):
        with pytest.raises(ValueError, match=message):
            make(**change)
        config = {**make().get_config(), **change}
        # Keras turns what goes wrong in `from_config` into a `TypeError`.
        with pytest.raises((TypeError, ValueError), match=message):
            type(make()).from_config(json.loads(json.dumps(config)))

    def test_scales_of_residuals_need_residuals(self, make):
        layer = make(residual_scale=2.0)
        x = images(1, 2, 2, 3)
        with pytest.raises(ValueError, match="`residual_scale` and"):
            layer(x)
        with pytest.raises(ValueError, match="`residual_scale` and"):
            layer(x, residual=np.ones((1, 2, 2, 3), "float32"))
        layer(x, residual=images(1, 2, 2, 3))

    def test_sums_that_leave_int32(self, make):
        layer = make(filter_dtype="int16")
        with pytest.raises(ValueError, match="leave int32.* 32768 diff"):
            layer.build((None, 1, 1, 32769))

    def test_channels_must_be_known(self, make):
        with pytest.raises(ValueError, match="channels .* must be known"):
            make()(keras.Input((4, 4, None), dtype="uint8"))

    def test_config(self, make):
        layer = make(**EPILOGUE, name="fused")
        config = layer.get_config()
        again = type(layer).from_config(json.loads(json.dumps(config)))
        assert again.get_config() == config
        assert {name: config[name] for name in EPILOGUE} == EPILOGUE


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(filters=0), "`filters` must be a positive int"),
        (dict(filters="3"), "`filters` must be a positive int"),
        (dict(filters=2**40), "`filters` must be a positive int"),
        (dict(kernel_size=0), "`kernel_size` must be a positive int or"),
        (
            dict(kernel_size=(1, 2, 3)),
            "`kernel_size` must be a positive int or",
        ),
        (dict(strides=-1), "`strides` must be a positive int or"),
        (dict(padding="causal"), "`padding` must be"),
        (dict(padding=((1, 1),)), "`padding` must be"),
        (dict(data_format="NHWC"), "`data_format` must be"),
        (dict(dilation_rate=1.5), "`dilation_rate` must be"),
        (dict(groups=0), "`groups` must be a positive int"),
        (dict(groups=4), "`groups` must divide `filters`"),
    ],
)
def test_bad_geometry_is_named(change, message):
    arguments = {"filters": 6, "kernel_size": 3, **change}
    with pytest.raises(ValueError, match=message):
        FusedAdderConv2D(**arguments)
    config = {**FusedAdderConv2D(6, 3).get_config(), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        FusedAdderConv2D.from_config(json.loads(json.dumps(config)))


@pytest.mark.parametrize(
    "shape, change, message",
    [
        ((None, 1, 8, 4), {}, "must not be smaller than the dilated"),
        ((None, 8, 8, 5), dict(groups=2), "`groups` must divide the channels"),
        ((None, 8, 8, 4), dict(padding=((9, 0), (0, 0))), "must not exceed"),
        ((None, 8, 8, 4), dict(kernel_size=10**6, padding="same"), "leave int"),
    ],
)
def test_inputs_that_do_not_fit(shape, change, message):
    layer = FusedAdderConv2D(**{"filters": 6, "kernel_size": 3, **change})
    with pytest.raises(ValueError, match=message):
        layer.build(shape)


def test_inputs_that_do_not_fit_what_was_built():
    layer = FusedAdderConv2D(6, 3)
    layer(images(1, 4, 4, 3))
    for x in (images(1, 4, 4, 5), images(4, 4, 3)):
        with pytest.raises(ValueError, match="incompatible with the layer"):
            layer(x)


@pytest.mark.parametrize("units", [0, -1, 1.0, "1", None, True])
def test_bad_units_are_named(units):
    with pytest.raises(ValueError, match="`units` must be a positive int"):
        FusedAdderDense(units)


def test_quantizing_a_model_passes_over_them():
    model = keras.Sequential([keras.Input((5,)), FusedAdderDense(3)])
    x = images(2, 5, dtype="float32")
    before = model(x)
    with pytest.warns(UserWarning):
        model.quantize("int8")
    same(model(x), before)


def test_the_function_and_the_layer_agree():
    layer = FusedAdderConv2D(4, 3, **without_residual())
    x = images(2, 5, 5, 3)
    layer.build(x.shape)
    set_weights(layer)
    y = fused_adder_conv2d(
        x, layer.kernel, layer.multiplier, layer.offset, **without_residual()
    )
    same(layer(x), y)
