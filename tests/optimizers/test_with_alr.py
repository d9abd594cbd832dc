"""Adder filters by ALR, and the rest by any other optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_adder import ALR
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import WithALR

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6, 6, 2)).astype("float32")
    return x, (np.arange(40) % 3).astype("int32")


def network():
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3),
            layers.BatchNormalization(),
            AdderConv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.Flatten(),
            AdderDense(5, use_bias=False),
            layers.BatchNormalization(),
            layers.Dense(3),
        ]
    )


def compiled(optimizer=None, model=None):
    model = model or network()
    if optimizer is None:
        optimizer = WithALR(keras.optimizers.Adam(0.01), ALR(0.05))
    model.compile(optimizer, LOSS)
    return model


def fit(model, epochs=2, **kwargs):
    x, y = data()
    return model.fit(
        *(x, y), batch_size=8, epochs=epochs, verbose=0, shuffle=False, **kwargs
    )


def assert_equal(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_variable_is_trained_by_its_own_optimizer():
    """As by hand: the same steps of two optimizers over one gradient."""
    model, other = network(), network()
    optimizer = WithALR(keras.optimizers.AdamW(0.01), ALR(0.05, eta=0.3))
    alr, adam = ALR(0.05, eta=0.3), keras.optimizers.AdamW(0.01)
    filters = [other.layers[index].kernel for index in (2, 5)]
    rest = [
        v
        for v in other.trainable_variables
        if not any(v is kernel for kernel in filters)
    ]
    x, y = data()
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        variables = [v.value for v in model.trainable_variables]
        gradients = tape.gradient(loss, variables)
        optimizer.apply(gradients, model.trainable_variables)
        with tf.GradientTape(persistent=True) as tape:
            loss = LOSS(y, other(x, training=True))
        for one, variables in ((alr, filters), (adam, rest)):
            gradients = tape.gradient(loss, [v.value for v in variables])
            one.apply(gradients, variables)
    assert_equal(model.trainable_variables, other.trainable_variables)
    assert optimizer.iterations == alr.iterations == 3


def test_fit_learns():
    model = compiled()
    losses = fit(model, epochs=10).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_the_default_is_alr_as_it_comes():
    optimizer = WithALR(keras.optimizers.Adam(0.01))
    assert optimizer.alr.get_config() == ALR().get_config()


def test_resuming_from_a_saved_model_is_bitwise_equal(tmp_path):
    """Loaded in safe mode, by the name that it is registered under."""
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 40)
    make = lambda: WithALR(  # noqa: E731
        keras.optimizers.AdamW(0.01, weight_decay=0.02),
        ALR(schedule, nesterov=True, weight_decay=1e-3),
    )
    through = compiled(make())
    fit(through, epochs=4)
    halfway = compiled(make())
    fit(halfway, epochs=2)
    halfway.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(resumed.optimizer) is WithALR
    assert resumed.optimizer.get_config() == halfway.optimizer.get_config()
    fit(resumed, epochs=2)
    assert_equal(resumed.weights, through.weights)
    assert_equal(resumed.optimizer.variables, through.optimizer.variables)


def test_a_scheduler_scales_both():
    rates = [0.02, 0.005]
    model = compiled()
    scheduler = keras.callbacks.LearningRateScheduler(
        lambda epoch: rates[epoch]
    )
    history = fit(model, callbacks=[scheduler]).history
    assert history["learning_rate"] == pytest.approx(rates)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)
    assert float(model.optimizer.alr.learning_rate) == pytest.approx(0.025)


def test_a_plateau_scales_both():
    model = compiled()
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.1, patience=1, min_delta=1e9
    )
    fit(model, epochs=3, callbacks=[plateau])
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-4)
    assert float(model.optimizer.alr.learning_rate) == pytest.approx(5e-4)


def test_the_ratio_outlives_a_learning_rate_of_zero():
    optimizer = WithALR(keras.optimizers.Adam(0.01), ALR(0.05))
    optimizer.learning_rate = 0.0
    assert float(optimizer.alr.learning_rate) == 0
    restored = WithALR.from_config(optimizer.get_config())
    restored.learning_rate = 0.02
    assert float(restored.alr.learning_rate) == pytest.approx(0.1)


def test_a_schedule_cannot_be_set():
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 40)
    for adam, alr in ((schedule, 0.05), (0.01, schedule), (0.0, 0.05)):
        optimizer = WithALR(keras.optimizers.Adam(adam), ALR(alr))
        with pytest.raises(TypeError, match="`alr` keeps its ratio to it"):
            optimizer.learning_rate = 0.1


def test_an_optimizer_may_be_a_name():
    assert type(WithALR("adam").optimizer) is keras.optimizers.Adam


def test_weight_decay_is_excluded_of_both():
    model = compiled(
        WithALR(
            keras.optimizers.AdamW(0.0, weight_decay=0.5),
            ALR(1e-9, weight_decay=0.5),
        )
    )
    model.optimizer.exclude_from_weight_decay(var_names=["kernel"])
    assert model.optimizer.alr.get_config()["exclude_from_weight_decay"] == {
        "var_names": ["kernel"],
        "var_paths": [],
        "var_indices": [],
        "var_count": None,
    }
    before = [v.numpy() for v in model.trainable_variables]
    fit(model, epochs=1)
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


def test_accumulation():
    """Two steps of half a batch are one step of a whole one, but for bits."""
    make = lambda **kwargs: WithALR(  # noqa: E731
        keras.optimizers.SGD(0.01, **kwargs), ALR(0.05, **kwargs)
    )
    x, y = data()
    results = []
    for batch, steps in ((16, None), (8, 2)):
        model = network()
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.trainable = False
        compiled(make(gradient_accumulation_steps=steps), model)
        model.fit(
            *(x[:32], y[:32]),
            batch_size=batch,
            epochs=1,
            verbose=0,
            shuffle=False,
        )
        results.append(model.trainable_variables)
    for whole, halves in zip(*results, strict=True):
        np.testing.assert_allclose(whole, halves, rtol=1e-4, atol=1e-5)


def test_averages_of_weights():
    """Of both, which replace the weights when `fit` ends."""
    make = lambda use_ema: WithALR(  # noqa: E731
        keras.optimizers.Adam(0.01, use_ema=use_ema), ALR(0.05, use_ema=use_ema)
    )
    last, averaged = compiled(make(False)), compiled(make(True))
    for model in (last, averaged):
        fit(model)
    for one, other in zip(
        last.trainable_variables, averaged.trainable_variables, strict=True
    ):
        assert np.any(one.numpy() != other.numpy())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled()
        losses = fit(model, epochs=4).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert losses[-1] < losses[0]
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    assert all(np.all(np.isfinite(v)) for v in model.trainable_variables)


@pytest.mark.slow
@pytest.mark.own_process
def test_two_replicas_fit_as_one():
    results = []
    for strategy in (
        tf.distribute.get_strategy(),
        tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    ):
        with strategy.scope():
            model = network()
            for layer in model.layers:
                if isinstance(layer, layers.BatchNormalization):
                    layer.trainable = False
            compiled(WithALR(keras.optimizers.SGD(0.01), ALR(0.05)), model)
        fit(model)
        results.append(model.trainable_variables)
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0.1,), "`optimizer` must be a `keras.optimizers.Optimizer`"),
        (
            (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),),
            "`optimizer` must be .* none that wraps another",
        ),
        (
            (keras.optimizers.SGD(), keras.optimizers.SGD()),
            "`alr` must be a `keras_adder.ALR` or `None`",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        WithALR(*arguments)
    with pytest.raises(TypeError, match="none that wraps"):
        WithALR(WithALR(keras.optimizers.SGD()))
