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
        (lambda x, y: x.tolist() and x, None),
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


def test_training_is_not_affected():
    x, y = data()
    weights = []
    for callbacks in ([], [RecalibrateBatchNormalization(x, steps=1)]):
        model = compiled()
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
    other = model.get_weights()
    model.get_layer("first").moving_mean.assign([1, 2, 3])
    model.evaluate(x, y, verbose=0, callbacks=[callback])
    assert model.get_layer("first").moving_mean.numpy().tolist() == [1, 2, 3]
    assert len(other) == len(model.get_weights())


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
