"""Batch normalization's statistics, renewed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_adder import ALR
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder.callbacks import RecalibrateBatchNormalization
from keras_adder.callbacks import recalibrate_batch_normalization

SIZE = 45


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SIZE, 6, 6, 3)) * [1, 5, 20] + [0, 3, -100]
    return x.astype("float32"), np.arange(SIZE) % 4


def network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.BatchNormalization(name="first"),
            AdderConv2D(5, 3, use_bias=False),
            layers.BatchNormalization(momentum=0.9, name="second"),
            layers.ReLU(),
            layers.Flatten(),
            AdderDense(4, use_bias=False),
            layers.BatchNormalization(name="third"),
        ]
    )


def statistics(layer):
    return np.stack([layer.moving_mean, layer.moving_variance])


def population(x, axis=(0, 1, 2)):
    x = np.asarray(x, "float64")
    return np.stack([x.mean(axis), x.var(axis)])


@pytest.mark.parametrize("batch_size", [45, 32, 7])
def test_statistics_are_those_of_all_images(batch_size):
    """Of whatever batches, of which the last one may be smaller."""
    model, (x, _) = network(), data()
    recalibrate_batch_normalization(model, x, batch_size=batch_size)
    np.testing.assert_allclose(
        statistics(model.get_layer("first")), population(x), rtol=1e-4
    )


def test_statistics_of_later_layers_are_those_of_training():
    model, (x, _) = network(), data()
    recalibrate_batch_normalization(model, x, batch_size=SIZE)
    inner = keras.Model(model.inputs, model.layers[1].output)
    distances = inner(x, training=True)
    np.testing.assert_allclose(
        statistics(model.get_layer("second")), population(distances), rtol=1e-4
    )
    # So that inference gives what training does.
    np.testing.assert_allclose(
        model(x, training=False), model(x, training=True), atol=0.02
    )


def test_nothing_else_changes():
    model, (x, _) = network(), data()
    before = [variable.numpy() for variable in model.trainable_variables]
    recalibrate_batch_normalization(model, x)
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.get_layer("first").momentum == 0.99
    assert model.get_layer("second").momentum == 0.9


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(15 * index, 15 * index + 15)
        return self.x[part], self.y[part]


@pytest.mark.parametrize(
    "make, steps",
    [
        (lambda x, y: tf.data.Dataset.from_tensor_slices(x).batch(8), None),
        (lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(8), 6),
        (
            lambda x, y: (
                tf.data.Dataset.from_tensor_slices((x, y, y)).repeat().batch(9)
            ),
            5,
        ),
        (Batches, None),
        (lambda x, y: ((x[i::3], y[i::3]) for i in range(3)), 3),
        (lambda x, y: x, None),
    ],
    ids=["inputs", "pairs", "endless", "PyDataset", "generator", "array"],
)
def test_data_as_fit_takes_them(make, steps):
    model, (x, y) = network(), data()
    recalibrate_batch_normalization(model, make(x, y), steps)
    np.testing.assert_allclose(
        statistics(model.get_layer("first")), population(x), rtol=1e-4
    )


def test_steps_are_a_limit():
    model, (x, y) = network(), data()
    batches = tf.data.Dataset.from_tensor_slices(x).batch(10)
    recalibrate_batch_normalization(model, batches, steps=2)
    np.testing.assert_allclose(
        statistics(model.get_layer("first")), population(x[:20]), rtol=1e-4
    )
    recalibrate_batch_normalization(model, Batches(x, y), steps=1)
    np.testing.assert_allclose(
        statistics(model.get_layer("first")), population(x[:15]), rtol=1e-4
    )


def test_several_inputs_and_nested_models():
    x, _ = data()
    inner = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.BatchNormalization(name="inner")]
    )
    inputs = {name: keras.Input((6, 6, 3), name=name) for name in "ab"}
    model = keras.Model(inputs, inner(inputs["a"]) - inputs["b"])
    recalibrate_batch_normalization(model, {"a": x, "b": 0 * x})
    np.testing.assert_allclose(
        statistics(inner.get_layer("inner")), population(x), rtol=1e-4
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = {"normalize": [layers.BatchNormalization()]}

    def call(self, x, training=None):
        return self.parts["normalize"][0](x, training=training)


def test_subclassed_models():
    model, (x, _) = Subclassed(), data()
    model(x)
    recalibrate_batch_normalization(model, x)
    (layer,) = model.parts["normalize"]
    np.testing.assert_allclose(statistics(layer), population(x), rtol=1e-4)


def test_frozen_layers_are_left_alone():
    model, (x, _) = network(), data()
    model.get_layer("first").trainable = False
    before = statistics(model.get_layer("first"))
    recalibrate_batch_normalization(model, x)
    np.testing.assert_array_equal(statistics(model.get_layer("first")), before)
    assert np.all(model.get_layer("second").moving_mean.numpy() < 0)


def test_a_failure_leaves_the_statistics_as_they_were():
    model, (x, _) = network(), data()

    def batches():
        yield x
        raise RuntimeError("no more data")

    before = model.get_weights()
    with pytest.raises(RuntimeError, match="no more data"):
        recalibrate_batch_normalization(model, batches(), steps=2)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.get_layer("first").momentum == 0.99


@pytest.mark.parametrize(
    "values, steps, message",
    [
        (lambda x: x, 0, "`steps` must be a positive integer"),
        (lambda x: x, 2.0, "`steps` must be a positive integer"),
        (lambda x: x.tolist(), None, "`data` must be arrays, a `tf.data"),
        (lambda x: x[:0], None, "`data` must have at least one batch"),
        (lambda x: [x, x[:3]], None, "`data` must be arrays of one length"),
        (lambda x: iter([x]), None, "`steps` must be given"),
        (
            lambda x: tf.data.Dataset.from_tensors(x).repeat(),
            None,
            "`steps` must be given",
        ),
    ],
)
def test_wrong_arguments_are_named(values, steps, message):
    model, (x, _) = network(), data()
    with pytest.raises(ValueError, match=message):
        recalibrate_batch_normalization(model, values(x), steps)


def test_other_arguments_are_named():
    x, _ = data()
    with pytest.raises(ValueError, match="`batch_size` must be a positive"):
        recalibrate_batch_normalization(network(), x, batch_size=0)
    with pytest.raises(ValueError, match="`model` must have been built"):
        recalibrate_batch_normalization(
            keras.Sequential([layers.BatchNormalization()]), x
        )
    recalibrate_batch_normalization(network(), x, steps=np.int64(2))


class Graph(Subclassed):
    @tf.function
    def call(self, x, training=None):
        return self.parts["normalize"][0](x, training=training)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99, 0.999])
def test_any_momentum_and_a_call_that_was_traced_before(momentum):
    x, _ = data()
    model = Graph()
    (layer,) = model.parts["normalize"]
    layer.momentum = momentum
    model(x, training=True)
    recalibrate_batch_normalization(model, x)
    np.testing.assert_allclose(statistics(layer), population(x), rtol=1e-4)
    assert layer.momentum == momentum


def test_a_shared_layer_has_the_statistics_of_all_its_calls():
    x, _ = data()
    shared = layers.BatchNormalization()
    left, right = keras.Input((6, 6, 3)), keras.Input((6, 6, 3))
    model = keras.Model([left, right], shared(left) - shared(right))
    recalibrate_batch_normalization(model, [x, 3 * x], batch_size=SIZE)
    expected = (population(x)[0] + population(3 * x)[0]) / 2
    np.testing.assert_allclose(shared.moving_mean, expected, rtol=0.01)


class Inference(Subclassed):
    def call(self, x, training=None):
        return self.parts["normalize"][0](x, training=False)


def test_what_is_called_for_inference_is_left_alone():
    x, _ = data()
    model = Inference()
    model(x)
    (layer,) = model.parts["normalize"]
    layer.moving_mean.assign([1, 2, 3])
    before = statistics(layer)
    recalibrate_batch_normalization(model, x)
    np.testing.assert_array_equal(statistics(layer), before)


def test_pure_half_precision():
    x, _ = data()
    layer = layers.BatchNormalization(dtype="float16")
    model = keras.Sequential([keras.Input((6, 6, 3)), layer])
    recalibrate_batch_normalization(model, x)
    np.testing.assert_allclose(statistics(layer), population(x), rtol=0.05)


def test_seeds_and_other_variables_stay():
    """What else a call in training changes is put back."""
    x, _ = data()
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.SpectralNormalization(layers.Conv2D(3, 3)),
            layers.Dropout(0.5),
            layers.BatchNormalization(name="normalize"),
        ]
    )
    before = {v.path: v.numpy() for v in model.variables}
    recalibrate_batch_normalization(model, x)
    changed = {
        v.path for v in model.variables if np.any(before[v.path] != v.numpy())
    }
    assert len(changed) == 2 and all("/moving_" in path for path in changed)


def compiled():
    keras.utils.set_random_seed(3)
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(ALR(0.05), loss, metrics=["accuracy"])
    return model


def test_validation_sees_the_new_statistics():
    x, y = data()
    model = compiled()
    history = model.fit(
        x,
        y,
        epochs=3,
        verbose=0,
        validation_data=(x, y),
        callbacks=[RecalibrateBatchNormalization(x)],
    ).history
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert history["val_accuracy"][-1] == pytest.approx(accuracy)
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(
        statistics(model.get_layer("first")), population(x), rtol=1e-4
    )


@pytest.mark.parametrize("first", [True, False])
def test_callbacks_that_keep_weights(tmp_path, first):
    """Without validation data as well."""
    x, y = data()
    model = compiled()
    kept = [
        keras.callbacks.EarlyStopping(
            monitor="loss", min_delta=10, patience=1, restore_best_weights=True
        ),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
    ]
    recalibrate = RecalibrateBatchNormalization(x)
    order = [kept[0], recalibrate, kept[1]]
    if first:
        order = [recalibrate, *kept]
    model.fit(
        *(x, y),
        epochs=4,
        verbose=0,
        callbacks=order,
    )
    stopped = keras.saving.load_model(tmp_path / "1.keras")
    for trained in (model, stopped):
        np.testing.assert_allclose(
            statistics(trained.get_layer("first")), population(x), rtol=1e-4
        )
    assert len(list(tmp_path.glob("*.keras"))) == 2
    # The best epoch was the first.
    for one, other in zip(
        model.trainable_variables, stopped.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    renewed = model.get_weights()
    recalibrate_batch_normalization(model, x)
    for one, other in zip(renewed, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("validate", [True, False])
def test_averages_of_weights_get_statistics_of_their_own(validate):
    x, y = data()
    model = compiled()
    model.compile(ALR(0.05, use_ema=True, ema_momentum=0.5), model.loss)
    model.fit(
        *(x, y),
        epochs=2,
        verbose=0,
        validation_data=(x, y) if validate else None,
        callbacks=[RecalibrateBatchNormalization(x)],
    )
    renewed = statistics(model.get_layer("second"))
    recalibrate_batch_normalization(model, x)
    np.testing.assert_allclose(
        renewed, statistics(model.get_layer("second")), rtol=1e-5
    )


def test_training_is_not_affected():
    x, y = data()
    weights = []
    for callbacks in ([], [RecalibrateBatchNormalization(x, steps=1)]):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([*network().layers, layers.Dropout(0.5)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(ALR(0.05), loss)
        model.fit(
            *(x, y),
            epochs=2,
            verbose=0,
            validation_data=(x, y),
            callbacks=callbacks,
        )
        weights.append(model.trainable_variables)
    for plain, recalibrated in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, recalibrated)


def test_an_evaluation_apart_finds_the_statistics_alone():
    x, y = data()
    model = compiled()
    callback = RecalibrateBatchNormalization(x)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[callback])
    model.get_layer("first").moving_mean.assign([1, 2, 3])
    model.evaluate(x, y, verbose=0, callbacks=[callback])
    assert model.get_layer("first").moving_mean.numpy().tolist() == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.own_process
def test_mirrored_strategy():
    """Each replica has statistics of its own; all of them are renewed."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    x, y = data()
    with strategy.scope():
        model = compiled()
    model.fit(
        *(x[:44], y[:44]),
        batch_size=22,
        epochs=1,
        verbose=0,
        callbacks=[RecalibrateBatchNormalization(x)],
    )
    np.testing.assert_allclose(
        statistics(model.get_layer("first")), population(x), rtol=1e-4
    )
