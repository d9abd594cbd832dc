"""What ALR and ILR share, each in the ways Keras lets one use an optimizer."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizers.oracle import AuthorsSGD
from optimizers.oracle import Distance
from optimizers.oracle import alr
from optimizers.oracle import arrays
from optimizers.oracle import data
from optimizers.oracle import fit
from optimizers.oracle import model
from optimizers.oracle import relative_error
from optimizers.oracle import variable

import keras_adder.filters
import keras_adder.optimizers
from keras_adder.optimizers import ALR
from keras_adder.optimizers import ILR

both = pytest.mark.parametrize("cls", [ALR, ILR])


def gradients_like(variables, seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    return [
        tf.constant(rng.normal(size=v.shape) * size, v.dtype) for v in variables
    ]


def pair(adder=True):
    """An adder filter after another variable, so that indices matter."""
    rng = np.random.default_rng(2)
    return [
        variable(rng.normal(size=(4, 2)), adder=False, name="other"),
        variable(rng.normal(size=(3, 5)), adder=adder, name="filter"),
    ]


def train(optimizer, variables, steps=3, size=1.0):
    for i in range(steps):
        optimizer.apply(gradients_like(variables, i, size), variables)
    return arrays(variables)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)


def assert_equal(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        np.testing.assert_array_equal(a, e)


# Against Keras's SGD.


@both
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"nesterov": True},
        {"momentum": 0.0},
        {"clipnorm": 0.5},
        {"clipvalue": 0.5},
        {"global_clipnorm": 0.5},
    ],
    ids=str,
)
def test_other_variables_train_as_in_sgd(cls, kwargs):
    kwargs = {"momentum": 0.9, **kwargs}
    ours, theirs = pair(), pair()
    train(cls(0.1, **kwargs), ours)
    train(keras.optimizers.SGD(0.1, **kwargs), theirs)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert relative_error(ours[1], theirs[1]) > 0.01


@both
def test_without_adder_filters_it_is_sgd(cls):
    assert_equal(
        train(cls(0.1, momentum=0.9), pair(adder=False)),
        train(keras.optimizers.SGD(0.1, momentum=0.9), pair(adder=False)),
    )


def test_the_hooks_of_keras_that_we_rely_on():
    """Fails where a new Keras renames or stops calling one of them."""
    sgd = keras.optimizers.SGD

    def parameters(name):
        return list(inspect.signature(getattr(sgd, name)).parameters)

    assert parameters("build") == ["self", "variables"]
    assert parameters("update_step") == [
        "self",
        "gradient",
        "variable",
        "learning_rate",
    ]
    assert parameters("_get_variable_index") == ["self", "variable"]
    assert parameters("_use_weight_decay") == ["self", "variable"]
    assert parameters("_apply_weight_decay") == ["self", "variables"]

    calls = []

    class Spy(sgd):
        def build(self, variables):
            calls.append("build")
            super().build(variables)

        def update_step(self, gradient, variable, learning_rate):
            calls.append("update_step")
            # Our `update_step` looks variables up by what it is given here.
            calls.append(self._get_variable_index(variable))
            super().update_step(gradient, variable, learning_rate)

        def _apply_weight_decay(self, variables):
            calls.append("_apply_weight_decay")

    decayed = Spy(0.1, weight_decay=0.5)
    assert_equal(train(decayed, pair(), 1), train(sgd(0.1), pair(), 1))
    assert calls == ["build", "_apply_weight_decay"] + [
        "update_step",
        0,
        "update_step",
        1,
    ]


def test_signature_has_every_argument_of_sgd():
    for cls in (ALR, ILR):
        assert set(inspect.signature(keras.optimizers.SGD).parameters) <= set(
            inspect.signature(cls).parameters
        )
    assert list(inspect.signature(ALR).parameters)[:5] == [
        "learning_rate",
        "eta",
        "momentum",
        "nesterov",
        "weight_decay",
    ]


# Weight decay.


@both
def test_weight_decay_is_applied_once(cls):
    variables = [variable(np.ones(4)), variable(np.ones(4), adder=False)]
    optimizer = cls(0.5, momentum=0.0, weight_decay=0.25)
    optimizer.apply([tf.zeros(4), tf.zeros(4)], variables)
    assert_equal(arrays(variables), [np.full(4, 0.875)] * 2)


@both
def test_weight_decay_enters_the_momentum(cls):
    v = variable(np.ones(4))
    optimizer = cls(0.5, momentum=0.5, weight_decay=0.25)
    oracle, w = AuthorsSGD(0.5, 0.5, decay=0.25), np.ones(4)
    for _ in range(3):
        optimizer.apply([tf.zeros(4)], [v])
        w = oracle.step(w, np.zeros(4))
    np.testing.assert_allclose(v, w, rtol=1e-6)


def test_weight_decay_comes_after_the_rescaling():
    v = variable(np.full(4, 100.0))
    ALR(1.0, momentum=0.0, weight_decay=0.5).apply([tf.ones(4)], [v])
    np.testing.assert_allclose(v, 100.0 - 0.2 - 50.0, rtol=1e-6)


@both
@pytest.mark.parametrize("by", ["var_list", "var_names"])
def test_exclude_from_weight_decay(cls, by):
    variables = pair() + [variable(np.ones(3), False, name="bias")]
    excluded = [variables[1], variables[2]]
    optimizer = cls(1.0, momentum=0.0, weight_decay=0.5)
    if by == "var_list":
        optimizer.exclude_from_weight_decay(var_list=excluded)
    else:
        optimizer.exclude_from_weight_decay(var_names=["filter", "bias"])
    before = arrays(variables)
    optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    assert_equal(arrays(variables), [before[0] * 0.5, before[1], before[2]])


@both
def test_no_weight_decay_is_the_same_as_none(cls):
    assert_equal(
        train(cls(weight_decay=0.0), pair()),
        train(cls(weight_decay=None), pair()),
    )


@both
@pytest.mark.parametrize("decay", [-1e-4, float("nan"), "5e-4", True])
def test_weight_decay_is_checked(cls, decay):
    with pytest.raises(ValueError, match="`weight_decay`.*Received"):
        cls(weight_decay=decay)


# Gradients and variables of other kinds.


@both
def test_half_precision_weight_decay(cls):
    v = variable(np.ones(4), dtype="float16")
    optimizer = cls(1.0, momentum=0.0, weight_decay=0.25)
    optimizer.apply([tf.zeros(4, "float16")], [v])
    assert v.dtype == "float16"
    np.testing.assert_array_equal(v, np.full(4, 0.75, "float16"))


@both
@pytest.mark.parametrize("decay", [None, 0.1])
@pytest.mark.parametrize("adder", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sparse_gradients(cls, decay, adder, momentum):
    rng = np.random.default_rng(0)
    values = tf.constant(rng.normal(size=(4, 3)), "float32")
    indices = tf.constant([5, 1, 5, 0])  # one of them twice
    dense = tf.math.unsorted_segment_sum(values, indices, 6)
    start = rng.normal(size=(6, 3))
    results = []
    for gradient in (
        dense,
        tf.IndexedSlices(values, indices, tf.constant([6, 3])),
    ):
        v = variable(start, adder=adder)
        optimizer = cls(0.1, momentum=momentum, weight_decay=decay)
        for _ in range(2):
            optimizer.apply([gradient], [v])
        results.append(v.numpy())
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


def test_sparse_gradient_without_a_dense_shape():
    variables = [variable(np.ones((3, 2))), variable(np.ones((3, 2)), False)]
    gradient = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([1, 1]))
    optimizer = ALR(1.0, eta=1.0, momentum=0.0, weight_decay=0.5)
    optimizer.apply([gradient, gradient], variables)
    for v, size in zip(variables, (np.sqrt(3), 2.0)):
        expected = np.full((3, 2), 0.5)
        expected[1] -= size
        np.testing.assert_allclose(v, expected, rtol=1e-6)


def test_gradient_of_unknown_shape():
    v = variable(np.zeros((2, 2)))
    optimizer = ALR(1.0, momentum=0.0)
    optimizer.build([v])

    @tf.function(input_signature=[tf.TensorSpec(None)])
    def apply(gradient):
        optimizer.apply([gradient], [v])

    apply(tf.fill((2, 2), 7.0))
    np.testing.assert_allclose(v, np.full((2, 2), -0.2), rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError):
        apply(tf.fill((2, 1), 7.0))


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_variable_without_gradient_does_not_shift_the_others():
    variables = pair() + pair()
    before = arrays(variables)
    optimizer = ALR(1.0, momentum=0.0)
    optimizer.build(variables)
    gradients = gradients_like(variables)
    gradients[0] = gradients[1] = None
    optimizer.apply(gradients, variables)
    assert_close(
        arrays(variables),
        before[:2]
        + [
            before[2] - gradients[2],
            before[3] - alr(0.2)(np.array(gradients[3])),
        ],
    )


# Learning rates, averages, scales, accumulation.


@pytest.mark.parametrize("kind", ["schedule", "callable", "assigned"])
def test_learning_rate_that_changes(kind):
    schedule = keras.optimizers.schedules.CosineDecay(0.5, 10)
    rates = [float(schedule(i)) for i in range(3)]
    optimizer = ALR(
        {
            "schedule": schedule,
            "callable": lambda: schedule(optimizer.iterations),
            "assigned": 0.1,
        }[kind],
        weight_decay=0.1,
    )
    variables, expected = pair(), arrays(pair())
    velocity = [0.0, 0.0]
    for i, rate in enumerate(rates):
        gradients = gradients_like(variables, i)
        if kind == "assigned":
            optimizer.learning_rate = rate
        optimizer.apply(gradients, variables)
        for j, g in enumerate(map(np.array, gradients)):
            g = (alr(0.2)(g) if j == 1 else g) + 0.1 * expected[j]
            velocity[j] = 0.9 * velocity[j] - rate * g
            expected[j] = expected[j] + velocity[j]
    assert_close(arrays(variables), expected)


@both
def test_moving_average_of_the_weights(cls):
    optimizer = cls(0.1, use_ema=True, ema_momentum=0.5)
    averaged, plain = pair(), pair()
    reference = cls(0.1)
    average = None
    for i in range(3):
        gradients = gradients_like(plain, i)
        optimizer.apply(gradients, averaged)
        reference.apply(gradients, plain)
        new = arrays(plain)
        average = (
            [0.5 * a + 0.5 * n for a, n in zip(average, new)] if i else new
        )
    assert_equal(arrays(averaged), arrays(plain))
    optimizer.finalize_variable_values(averaged)
    assert_close(arrays(averaged), average)


def test_moving_average_overwrites_while_training():
    optimizer = ALR(
        1.0,
        momentum=0.0,
        use_ema=True,
        ema_momentum=0.5,
        ema_overwrite_frequency=2,
    )
    v = variable(np.zeros(4))
    for _ in range(2):
        optimizer.apply([tf.ones(4)], [v])
    # -0.2, then -0.4; the average started at -0.2.
    np.testing.assert_allclose(v, np.full(4, -0.3), rtol=1e-6)


@both
def test_constant_loss_scale(cls):
    scaled = cls(0.1, weight_decay=0.1, loss_scale_factor=1024.0)
    assert float(scaled.scale_loss(tf.constant(2.0))) == 2048.0
    assert_close(
        train(scaled, pair(), size=1024.0),
        train(cls(0.1, weight_decay=0.1), pair()),
    )


@both
def test_dynamic_loss_scale(cls):
    inner = cls(0.1, weight_decay=0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)
    variables = pair()
    actual = train(optimizer, variables, size=64.0)
    assert_close(actual, train(cls(0.1, weight_decay=0.1), pair()))
    # A step that overflowed is left out, weight decay too.
    bad = gradients_like(variables)
    bad[1] = bad[1] * np.inf
    optimizer.apply(bad, variables)
    assert_equal(arrays(variables), actual)
    assert float(optimizer.dynamic_scale) == 32.0


@both
@pytest.mark.parametrize("kwargs", [{}, {"clipvalue": 0.5}], ids=str)
def test_gradient_accumulation_rescales_the_average(cls, kwargs):
    optimizer = cls(
        0.1, weight_decay=0.1, gradient_accumulation_steps=2, **kwargs
    )
    reference = cls(0.1, weight_decay=0.1, **kwargs)
    accumulated, expected = pair(), pair()
    for i in range(3):
        first = gradients_like(expected, 2 * i)
        second = gradients_like(expected, 2 * i + 1, size=10.0)
        before = arrays(accumulated)
        optimizer.apply(first, accumulated)
        assert_equal(arrays(accumulated), before)
        optimizer.apply(second, accumulated)
        mean = [(a + b) / 2 for a, b in zip(first, second)]
        reference.apply(mean, expected)
        assert_close(arrays(accumulated), arrays(expected))


def test_gradient_accumulation_in_fit():
    x, y = data()
    split = model(optimizer=ALR(0.01, gradient_accumulation_steps=2))
    whole = model(optimizer=ALR(0.01))
    fit(split, x, y, epochs=2, batch_size=4)
    fit(whole, x, y, epochs=2, batch_size=8)
    assert_close(arrays(split.weights), arrays(whole.weights))


# Ways to train.


def custom_loop(trained, optimizer, x, y, steps, wrap=lambda f: f):
    @wrap
    def train_step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((trained(x) - y) ** 2)
        variables = trained.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables))
        return gradients

    return [train_step() for _ in range(steps)]


def test_custom_loop_against_the_authors_update():
    trained, (x, y) = model(), data()
    optimizer = ALR(0.01, weight_decay=5e-4, nesterov=True)
    expected = arrays(trained.trainable_variables)
    oracles = [
        AuthorsSGD(0.01, 0.9, True, 5e-4, alr(0.2) if i == 2 else None)
        for i in range(len(expected))
    ]
    for gradients in custom_loop(trained, optimizer, x, y, 12):
        expected = [
            o.step(w, g) for o, w, g in zip(oracles, expected, gradients)
        ]
    assert trained.trainable_variables[2].path.endswith("adder/kernel")
    for v, w in zip(trained.trainable_variables, expected):
        assert relative_error(v, w) < 1e-4


@both
@pytest.mark.parametrize("jit_compile", [False, True])
def test_tf_function_and_xla(cls, jit_compile):
    x, y = data()
    results = []
    for wrap in (lambda f: f, tf.function(jit_compile=jit_compile)):
        trained = model()
        optimizer = cls(1e-3, weight_decay=0.1)
        optimizer.build(trained.trainable_variables)
        custom_loop(trained, optimizer, x, y, 3, wrap)
        results.append(arrays(trained.weights))
    assert_close(*results)


@pytest.mark.parametrize(
    "kwargs",
    [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}],
    ids=str,
)
def test_fit_is_the_same_as_a_custom_loop(kwargs):
    x, y = data(8)
    by_hand, trained = model(), model(optimizer=ALR(0.01), **kwargs)
    custom_loop(by_hand, ALR(0.01), x, y, 4)
    fit(trained, x, y, epochs=4, batch_size=8)
    assert_close(arrays(trained.weights), arrays(by_hand.weights))


def test_watched_variables_are_recognised():
    # They are `tf.Variable`s, whose Keras variables nobody hands over.
    x, y = data()
    results = []
    for watched in (False, True):
        trained, optimizer = model(), ALR(0.01)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((trained(x) - y) ** 2)
        variables = (
            tape.watched_variables() if watched else trained.trainable_variables
        )
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables))
        results.append(arrays(trained.weights))
    assert_close(*results)


def test_mixed_precision_fit():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        trained = model(optimizer=ALR(0.01, weight_decay=0.1))
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(trained.optimizer, keras.optimizers.LossScaleOptimizer)
    # Keras starts so high that the first steps overflow and are left out.
    trained.optimizer.initial_scale = 16.0
    single = model(optimizer=ALR(0.01, weight_decay=0.1))
    start, (x, y) = arrays(single.weights), data(8)
    for m in (trained, single):
        fit(m, x, y, epochs=3, batch_size=8)
    actual, expected = arrays([trained.weights[2], single.weights[2]])
    assert trained.get_layer("adder").kernel.dtype == "float32"
    assert np.linalg.norm(actual - expected) < 0.05 * np.linalg.norm(
        expected - start[2]
    )


def test_freezing_a_layer_after_build():
    x, y = data(8)
    trained = model(optimizer=ALR(0.01, momentum=0.0))
    optimizer = trained.optimizer
    fit(trained, x, y)
    # The adder filter is variable 2 of 5, and the first of 3 from now on.
    trained.get_layer("stem").trainable = False
    trained.compile(optimizer=optimizer, loss="mse")
    before = arrays(trained.weights)
    fit(trained, x, y)
    after = arrays(trained.weights)
    assert_equal(after[:2], before[:2])
    moved = after[2] - before[2]
    expected = 0.01 * 0.2 * np.sqrt(moved.size)
    assert np.linalg.norm(moved) == pytest.approx(expected, rel=1e-3)
    # Thawed, and the adder layer frozen in its turn.
    trained.get_layer("stem").trainable = True
    trained.get_layer("adder").trainable = False
    trained.compile(optimizer=optimizer, loss="mse")
    fit(trained, x, y)
    assert_equal(arrays(trained.weights)[2:3], after[2:3])
    assert relative_error(trained.weights[0], after[0]) > 0


# Two replicas.


@pytest.fixture
def strategy():
    assert len(tf.config.list_logical_devices("CPU")) >= 2, (
        "TensorFlow started before tests/conftest.py could split the CPU."
    )
    # TensorFlow's collectives, the default, confuse one strategy with another
    # of the same process, which no program has but every test suite does.
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


OPTIMIZERS = {
    "alr": lambda: ALR(0.01, weight_decay=0.1),
    "ilr": lambda: ILR(1e-4, weight_decay=0.1),
    "ema": lambda: ALR(0.01, use_ema=True),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        ALR(0.01, weight_decay=0.1), initial_scale=16.0
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_replicas_fit_as_one(strategy, name):
    x, y = data()
    single = model(optimizer=OPTIMIZERS[name]())
    with strategy.scope():
        double = model(optimizer=OPTIMIZERS[name]())
    assert_equal(arrays(double.weights), arrays(single.weights))
    fit(single, x, y, epochs=3)
    fit(double, x, y, epochs=3)
    assert_close(arrays(double.weights), arrays(single.weights), atol=1e-5)
    # Equal on both replicas, not only on the one that is read.
    for v in strategy.experimental_local_results(
        double.get_layer("adder").kernel.value
    ):
        np.testing.assert_array_equal(v, double.get_layer("adder").kernel)


def replica_loop(strategy, make, graph, steps=4):
    """Each replica has half of the batch and of its mean loss."""
    x, y = data()
    with strategy.scope():
        trained = model()
        optimizer = make()
        optimizer.build(trained.trainable_variables)

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((trained(x) - y) ** 2) / 32.0
        variables = trained.trainable_variables
        optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables)
        )

    def split(values):
        count = strategy.num_replicas_in_sync
        parts = np.split(values, count)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def step(x, y):
        strategy.run(replica_step, args=(x, y))

    if graph:
        step = tf.function(step)
    x, y = split(x), split(y)
    for _ in range(steps):
        step(x, y)
    return arrays(trained.weights)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("exclude", [False, True])
def test_two_replicas_in_a_custom_loop(strategy, graph, exclude):
    def make():
        optimizer = ALR(0.01, weight_decay=0.5)
        if exclude:
            optimizer.exclude_from_weight_decay(var_names=["kernel"])
        return optimizer

    assert_close(
        replica_loop(strategy, make, graph),
        replica_loop(tf.distribute.get_strategy(), make, graph),
        atol=1e-5,
    )


def test_two_replicas_accumulate_gradients(strategy):
    def make():
        return ALR(0.01, weight_decay=0.1, gradient_accumulation_steps=2)

    assert_close(
        replica_loop(strategy, make, graph=False),
        replica_loop(tf.distribute.get_strategy(), make, graph=False),
        atol=1e-5,
    )


# Saving.


@both
def test_config_round_trip(cls):
    extra = {ALR: {"eta": 0.5}, ILR: {"factor": 7.0}}[cls]
    optimizer = cls(
        learning_rate=keras.optimizers.schedules.CosineDecay(0.1, 100),
        momentum=0.8,
        nesterov=True,
        weight_decay=5e-4,
        clipnorm=1.0,
        use_ema=True,
        ema_momentum=0.9,
        ema_overwrite_frequency=7,
        loss_scale_factor=2.0,
        gradient_accumulation_steps=3,
        name="mine",
        **extra,
    )
    config = optimizer.get_config()
    assert extra.items() <= config.items()
    # Every argument comes back, also one that a new Keras adds.
    arguments = set(inspect.signature(cls).parameters) - {"kwargs"}
    assert arguments == set(config)
    again = cls.from_config(optimizer.get_config())
    assert again.get_config() == config

    serialized = keras.saving.serialize_keras_object(optimizer)
    assert serialized["registered_name"] == f"keras_adder>{cls.__name__}"
    copy = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(serialized))
    )
    assert type(copy) is cls
    assert copy.get_config() == config
    assert type(keras.optimizers.get(serialized)) is cls


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("rate", ["constant", "schedule"])
def test_resuming_from_a_saved_model_is_bitwise_equal(tmp_path, rate, scaled):
    path, (x, y) = tmp_path / "model.keras", data()
    optimizer = ALR(
        0.01
        if rate == "constant"
        else keras.optimizers.schedules.CosineDecay(0.01, 12),
        nesterov=True,
        weight_decay=5e-4,
        use_ema=True,
    )
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    trained = model(optimizer=optimizer)
    fit(trained, x, y, epochs=2)
    trained.save(path)
    fit(trained, x, y, epochs=2)

    resumed = keras.saving.load_model(path)
    assert relative_error(resumed.weights[2], trained.weights[2]) > 0
    fit(resumed, x, y, epochs=2)
    assert_equal(arrays(resumed.weights), arrays(trained.weights))
    assert_equal(
        arrays(resumed.optimizer.variables), arrays(trained.optimizer.variables)
    )


@both
@pytest.mark.parametrize("by", ["var_list", "var_names"])
def test_resuming_keeps_what_weight_decay_excludes(tmp_path, cls, by):
    path, (x, y) = tmp_path / "model.keras", data()

    def built(exclude):
        keras.utils.set_random_seed(0)
        # Without an input: the paths of its variables change by loading.
        result = keras.Sequential(
            [keras.layers.Dense(4), Distance(3), keras.layers.Dense(2)]
        )
        result(x)
        optimizer = cls(0.01, weight_decay=0.5)
        if exclude and by == "var_list":
            excluded = [result.layers[0].bias, result.layers[1].kernel]
            optimizer.exclude_from_weight_decay(var_list=excluded)
        elif exclude:
            optimizer.exclude_from_weight_decay(var_names=["kernel", "xyz"])
        result.compile(optimizer, loss="mse", jit_compile=False)
        fit(result, x, y)
        return result

    trained, decayed = built(True), built(False)
    assert relative_error(decayed.weights[2], trained.weights[2]) > 0
    trained.save(path)
    fit(trained, x, y)

    for _ in range(2):  # And what was resumed is saved like any other.
        resumed = keras.saving.load_model(path)
        resumed.save(path)
    count = len(resumed.optimizer.variables)
    fit(resumed, x, y)
    assert len(resumed.optimizer.variables) == count == 2 + 5
    assert_equal(arrays(resumed.weights), arrays(trained.weights))


@both
def test_config_holds_what_weight_decay_excludes(cls):
    variables = pair()
    optimizer = cls(weight_decay=0.5)
    assert "exclude_from_weight_decay" not in optimizer.get_config()
    optimizer.exclude_from_weight_decay(variables[:1], var_names=["bias"])
    for build in (False, True):
        if build:
            optimizer.build(variables)
        config = optimizer.get_config()
        serialized = json.dumps(keras.optimizers.serialize(optimizer))
        copy = keras.optimizers.get(json.loads(serialized))
        assert copy.get_config() == config
        assert cls.from_config(config).get_config() == config
        # Before it is built, by path; afterwards by index too.
        copies = pair()
        before = arrays(copies)
        plain = {"learning_rate": 1.0, "momentum": 0.0}
        copy = cls.from_config({**config, **plain})
        copy.apply([tf.zeros(v.shape) for v in copies], copies)
        assert_equal(arrays(copies), [before[0], before[1] * 0.5])


def test_excluded_variables_that_are_gone_are_told():
    optimizer = ALR(weight_decay=0.5)
    optimizer.exclude_from_weight_decay(pair()[:1])
    optimizer = ALR.from_config(optimizer.get_config())
    with pytest.warns(UserWarning, match=r"again before.*Not found: \['other"):
        optimizer.build([variable(np.ones(3), name="bias")])


def test_resuming_from_a_checkpoint_is_bitwise_equal(tmp_path):
    x, y = data()
    trained = model(optimizer=ALR(0.01, weight_decay=5e-4))
    fit(trained, x, y, epochs=2)
    checkpoint = tf.train.Checkpoint(model=trained, optimizer=trained.optimizer)
    path = checkpoint.save(tmp_path / "checkpoint")
    fit(trained, x, y, epochs=2)

    resumed = model(seed=5, optimizer=ALR(0.01, weight_decay=5e-4))
    resumed.optimizer.build(resumed.trainable_variables)
    tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(
        path
    ).assert_consumed()
    assert int(resumed.optimizer.iterations) == 4
    fit(resumed, x, y, epochs=2)
    assert_equal(arrays(resumed.weights), arrays(trained.weights))


def test_backup_and_restore_resumes(tmp_path):
    x, y = data()
    whole = model(optimizer=ALR(0.01))
    fit(whole, x, y, epochs=4)

    class Killed(Exception):
        pass

    def kill(epoch, logs):
        if epoch == 1:
            raise Killed

    def run(killer):
        trained = model(optimizer=ALR(0.01))
        trained.fit(
            x,
            y,
            batch_size=8,
            epochs=4,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.BackupAndRestore(tmp_path), *killer],
        )
        return trained

    with pytest.raises(Killed):
        run([keras.callbacks.LambdaCallback(on_epoch_end=kill)])
    resumed = run([])
    assert int(resumed.optimizer.iterations) == 8
    assert_equal(arrays(resumed.weights), arrays(whole.weights))


def test_training_a_clone():
    x, y = data()
    trained = model(optimizer=ALR(0.01))
    clone = keras.models.clone_model(trained)
    clone.set_weights(trained.get_weights())
    clone.compile(ALR.from_config(trained.optimizer.get_config()), loss="mse")
    for m in (trained, clone):
        fit(m, x, y, epochs=2)
    assert_equal(arrays(clone.weights), arrays(trained.weights))


def test_building_twice_changes_nothing():
    optimizer = ALR()
    variables = pair()
    optimizer.build(variables)
    count = len(optimizer.variables)
    optimizer.build(variables[::-1])
    assert len(optimizer.variables) == count
    assert_equal(train(optimizer, variables), train(ALR(), pair()))


def test_only_momentum_is_stored():
    ours, theirs = ALR(), keras.optimizers.SGD(0.1, momentum=0.9)
    for optimizer in (ours, theirs):
        optimizer.build(pair())
    assert [v.name for v in ours.variables] == [
        v.name for v in theirs.variables
    ]


# Arguments that Keras checks, and what we document.


@both
@pytest.mark.parametrize(
    "kwargs",
    [
        {"learning_rate": "fast"},
        {"momentum": -0.1},
        {"momentum": 2.0},
        {"unknown": 1},
        {"gradient_accumulation_steps": 1},
        {"clipnorm": 1.0, "clipvalue": 1.0},
    ],
    ids=str,
)
def test_keras_still_checks_its_own_arguments(cls, kwargs):
    with pytest.raises(ValueError):
        cls(**kwargs)


@pytest.mark.parametrize(
    "documented",
    [
        keras_adder.optimizers.ALR,
        keras_adder.optimizers.ILR,
        keras_adder.filters.is_adder_filter,
        keras_adder.filters.mark_adder_filter,
    ],
)
def test_example_in_the_docstring_runs(documented):
    example = inspect.getdoc(documented).split("Example:")[1]
    exec(example.split("```python")[1].split("```")[0], {})


@both
def test_docstring_describes_every_argument(cls):
    assert "{{" not in cls.__doc__
    for name in set(inspect.signature(cls).parameters) - {"kwargs"}:
        assert f"\n        {name}: " in cls.__doc__
    assert max(map(len, cls.__doc__.splitlines())) <= 80


def test_distance_layer_is_what_the_tests_say():
    layer = Distance(2)
    y = layer(np.array([[1.0, 2.0, 4.0]], "float32"))
    kernel = layer.kernel.numpy()
    expected = -0.5 * np.sum(
        (np.array([1.0, 2.0, 4.0])[:, None] - kernel) ** 2, axis=0
    )
    np.testing.assert_allclose(y[0], expected, rtol=1e-6)
