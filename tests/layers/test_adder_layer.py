"""What holds for every adder layer."""

import doctest
import inspect
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_adder
from keras_adder import AdderConv1D
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import AdderDepthwiseConv2D
from keras_adder import AdderSeparableConv2D
from keras_adder import is_adder_filter


class Case:
    """A layer class, its smallest arguments and inputs, and its parent.

    And what makes its kernels large, their names, and those that begin the
    names of their arguments.
    """

    def __init__(self, layer, parent, args, shape, wide, **kernels):
        self.layer, self.parent = layer, parent
        self.args, self.shape, self.wide = args, shape, wide
        self.kernels = kernels or {"kernel": "kernel"}

    def make(self, **kwargs):
        return self.layer(*self.args, **kwargs)

    def for_kernels(self, what, value):
        """An argument for all kernels, such as an `"initializer"`."""
        return {f"{name}_{what}": value for name in self.kernels.values()}

    def kernels_of(self, layer):
        return [getattr(layer, name) for name in self.kernels]

    def inputs(self, dtype="float32"):
        x = np.random.default_rng(0).normal(size=self.shape)
        return x.astype(keras.ops.convert_to_tensor(0, dtype).numpy().dtype)

    def model(self, *layers, **kwargs):
        return keras.Sequential(
            [keras.Input(self.shape[1:]), self.make(**kwargs), *layers]
        )


CASES = [
    Case(
        AdderConv2D,
        keras.layers.Conv2D,
        (4, 3),
        (2, 6, 6, 3),
        {"filters": 300},
    ),
    Case(AdderDense, keras.layers.Dense, (4,), (2, 5), {"units": 1000}),
    Case(
        AdderDepthwiseConv2D,
        keras.layers.DepthwiseConv2D,
        (3,),
        (2, 6, 6, 3),
        {"depth_multiplier": 300},
        kernel="depthwise",
    ),
    Case(
        AdderSeparableConv2D,
        keras.layers.SeparableConv2D,
        (4, 3),
        (2, 6, 6, 3),
        {"depth_multiplier": 300, "filters": 10},
        depthwise_kernel="depthwise",
        pointwise_kernel="pointwise",
    ),
    Case(AdderConv1D, keras.layers.Conv1D, (4, 3), (2, 6, 3), {"filters": 900}),
]


@pytest.fixture(params=CASES, ids=lambda case: case.layer.__name__)
def case(request):
    return request.param


def test_arguments_are_those_of_the_keras_layer(case):
    ours = list(inspect.signature(case.layer).parameters.values())
    theirs = list(inspect.signature(case.parent).parameters.values())
    assert [p.name for p in ours] == [
        *[p.name for p in theirs[:-1]],
        "filter_gradient",
        theirs[-1].name,
    ]
    theirs = {p.name: p.default for p in theirs}
    changed = {p.name for p in ours if theirs.get(p.name) != p.default}
    initializers = case.for_kernels("initializer", None)
    assert changed == {*initializers, "filter_gradient"}
    assert issubclass(case.layer, case.parent)


@pytest.mark.parametrize(
    "module",
    [
        "keras_adder.layers.adder_conv1d",
        "keras_adder.layers.adder_conv2d",
        "keras_adder.layers.adder_dense",
        "keras_adder.layers.adder_depthwise_conv2d",
        "keras_adder.layers.adder_separable_conv2d",
        "keras_adder.applications.lenet",
    ],
)
def test_examples_run(module):
    results = doctest.testmod(
        sys.modules[module],
        extraglobs={"np": np, "keras": keras, "keras_adder": keras_adder},
    )
    assert results.attempted > 0 and results.failed == 0


def test_filters_start_standard_normal(case):
    config = {**case.make().get_config(), **case.wide}
    layer = case.layer.from_config(config)
    layer.build(case.shape)
    for kernel in case.kernels_of(layer):
        assert abs(kernel.numpy().mean()) < 0.05
        assert abs(kernel.numpy().std() - 1) < 0.05


def test_each_layer_starts_from_filters_of_its_own(case):
    first, second = case.make(), case.make()
    for layer in (first, second):
        layer.build(case.shape)
    for ours, theirs in zip(*map(case.kernels_of, (first, second))):
        assert not np.array_equal(ours, theirs)


def test_filters_follow_the_global_seed(case):
    kernels = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        layer = case.make()
        layer.build(case.shape)
        kernels.append(layer.get_weights())
    for first, second in zip(*kernels):
        np.testing.assert_array_equal(first, second)


def test_the_kernels_and_nothing_else_are_adder_filters(case):
    layer = case.make()
    layer.build(case.shape)
    filters = [v for v in layer.variables if is_adder_filter(v)]
    assert filters == case.kernels_of(layer)
    assert len(layer.variables) == len(filters) + 1


@pytest.mark.parametrize("mode", ["l1", "", None, 1, ["sign"]])
def test_filter_gradient_is_one_of_two(case, mode):
    with pytest.raises(ValueError, match="`filter_gradient` argument must be"):
        case.make(filter_gradient=mode)


def test_unknown_arguments_are_refused(case):
    with pytest.raises(ValueError, match="color"):
        case.make(color="red")


def full_config(case):
    return case.make(
        activation="relu",
        use_bias=False,
        **case.for_kernels(
            "initializer", keras.initializers.RandomUniform(-2, 2, seed=1)
        ),
        **case.for_kernels("regularizer", keras.regularizers.L2(1e-3)),
        activity_regularizer=keras.regularizers.L1(1e-3),
        **case.for_kernels("constraint", keras.constraints.MaxNorm(3.0)),
        filter_gradient="sign",
        dtype="mixed_bfloat16",
        trainable=False,
        name="all_set",
    )


def test_config_round_trip(case):
    for layer in (case.make(), full_config(case)):
        config = layer.get_config()
        again = case.layer.from_config(config)
        assert again.get_config() == config
        assert again.filter_gradient == layer.filter_gradient


def test_serialization_needs_no_custom_objects(case):
    config = keras.saving.serialize_keras_object(full_config(case))
    assert config["registered_name"] == f"keras_adder>{case.layer.__name__}"
    layer = keras.saving.deserialize_keras_object(config)
    assert type(layer) is case.layer
    assert layer.get_config() == full_config(case).get_config()


POLICIES = {
    "float16": 2e-2,
    "bfloat16": 2e-1,
    "float32": 1e-5,
    "float64": 1e-12,
    "mixed_float16": 2e-2,
    "mixed_bfloat16": 2e-1,
}


@pytest.mark.parametrize("policy", POLICIES)
def test_dtype_policies(case, policy):
    layer = case.make(dtype=policy)
    x = tf.constant(case.inputs(layer.variable_dtype))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.cast(y, "float32"))
    assert y.dtype == layer.compute_dtype
    assert layer(keras.KerasTensor(case.shape)).dtype == layer.compute_dtype
    kernels = [kernel.value for kernel in case.kernels_of(layer)]
    dx, *gradients = tape.gradient(loss, [x, *kernels])
    assert dx.dtype == x.dtype
    for tensor in (*kernels, *gradients):
        assert tensor.dtype == layer.variable_dtype

    double = case.make(dtype="float64")
    double.build(case.shape)
    double.set_weights([w.astype("float64") for w in layer.get_weights()])
    np.testing.assert_allclose(
        keras.ops.cast(y, "float64"),
        double(x),
        rtol=POLICIES[policy],
        atol=POLICIES[policy],
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_global_policy_is_used(case, policy):
    keras.config.set_dtype_policy(policy)
    try:
        layer = case.make()
    finally:
        keras.config.set_dtype_policy("float32")
    assert layer(case.inputs()).dtype == layer.compute_dtype != "float32"


def test_autocast_off_computes_in_the_wider_dtype(case):
    layer = case.make(dtype="float16", autocast=False)
    assert layer(case.inputs("float32")).dtype == "float32"
    assert layer(case.inputs("float16")).dtype == "float16"


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integer_inputs_are_promoted(case, dtype):
    layer = case.make()
    x = np.arange(np.prod(case.shape)).reshape(case.shape).astype(dtype)
    np.testing.assert_array_equal(layer(x), layer(x.astype("float32")))


def test_sparse_and_ragged_inputs_are_refused(case):
    layer = case.make()
    layer.build(case.shape)
    x = case.inputs()
    with pytest.raises(TypeError, match="dense"):
        layer(tf.sparse.from_dense(x))
    with pytest.raises(TypeError, match="dense"):
        layer(tf.RaggedTensor.from_tensor(x))


def test_regularizers_and_constraints(case):
    layer = case.make(
        **case.for_kernels("initializer", "ones"),
        **case.for_kernels("regularizer", keras.regularizers.L1(0.5)),
        bias_regularizer=keras.regularizers.L1(1.0),
        activity_regularizer=keras.regularizers.L1(0.1),
        **case.for_kernels("constraint", keras.constraints.NonNeg()),
        bias_constraint=keras.constraints.NonNeg(),
    )
    y = layer(case.inputs())
    losses = sorted(float(loss) for loss in layer.losses)
    sizes = [np.prod(kernel.shape) for kernel in case.kernels_of(layer)]
    penalties = [0.5 * size for size in sizes]
    activity = 0.1 * np.abs(y).sum() / len(y)
    np.testing.assert_allclose(
        losses, sorted([*penalties, 0.0, activity]), rtol=1e-5
    )
    keras.optimizers.SGD(1e6).apply(
        [tf.ones(v.shape) for v in layer.trainable_variables],
        layer.trainable_variables,
    )
    for variable in layer.trainable_variables:
        assert np.min(variable) == 0.0


def test_rematerialization(case):
    x = tf.constant(case.inputs())
    gradients = []
    for mode in (None, "full"):
        with keras.RematScope(mode=mode):
            layer = case.make(**case.for_kernels("initializer", "ones"))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x))
        kernels = [kernel.value for kernel in case.kernels_of(layer)]
        gradients.append(tape.gradient(loss, kernels))
    for plain, again in zip(*gradients):
        np.testing.assert_array_equal(plain, again)


def test_keras_does_not_try_xla_by_itself(case):
    assert not case.make().supports_jit
    model = case.model()
    model.compile("sgd", "mse")
    assert not model.jit_compile
    with pytest.warns(UserWarning, match="jit_compile"):
        model.compile("sgd", "mse", jit_compile=True)
        model.train_on_batch(case.inputs(), model(case.inputs()))


def test_training_learns(case):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    x = rng.normal(size=(64, *case.shape[1:])) + 2 * labels.reshape(
        (64,) + (1,) * (len(case.shape) - 1)
    )
    model = case.model(
        keras.layers.Flatten(),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.Dense(2, activation="softmax"),
        use_bias=False,
    )
    before = model.layers[0].get_weights()
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    data = tf.data.Dataset.from_tensor_slices((x, labels)).batch(16)
    history = model.fit(data.repeat(5), epochs=5, shuffle=False, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0] / 2
    assert model.evaluate(x, labels, verbose=0)[1] > 0.95
    for old, new in zip(before, model.layers[0].get_weights(), strict=True):
        assert not np.array_equal(old, new)
