import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizers.oracle import Distance
from optimizers.oracle import model

from keras_adder.filters import is_adder_filter
from keras_adder.filters import mark_adder_filter


def names(variables):
    return [v.path[-12:] for v in variables if is_adder_filter(v)]


def test_mark_and_predicate():
    variable = keras.Variable([1.0, 2.0])
    assert is_adder_filter(variable) is False
    assert mark_adder_filter(variable) is variable
    assert is_adder_filter(variable) is True
    assert is_adder_filter(variable.value) is True
    assert is_adder_filter(keras.Variable([1.0, 2.0])) is False


def test_tf_variable():
    variable = tf.Variable([1.0])
    assert is_adder_filter(variable) is False
    assert is_adder_filter(mark_adder_filter(variable)) is True


def test_only_the_marked_variable_of_a_model():
    assert names(model().variables) == ["adder/kernel"]


def test_assigning_keeps_the_mark():
    variable = mark_adder_filter(keras.Variable([1.0, 2.0]))
    variable.assign([3.0, 4.0])
    assert is_adder_filter(variable)
    variable.trainable = False
    assert is_adder_filter(variable)


def test_mark_survives_cloning():
    assert names(keras.models.clone_model(model()).variables) == [
        "adder/kernel"
    ]


def test_mark_survives_saving_and_loading(tmp_path):
    path = tmp_path / "model.keras"
    model().save(path)
    assert names(keras.saving.load_model(path).variables) == ["adder/kernel"]


def test_mark_survives_loading_weights(tmp_path):
    path = tmp_path / "model.weights.h5"
    original, other = model(0), model(1)
    original.save_weights(path)
    other.load_weights(path)
    np.testing.assert_array_equal(
        original.get_layer("adder").kernel, other.get_layer("adder").kernel
    )
    assert names(other.variables) == ["adder/kernel"]


def test_mark_under_a_distribution_strategy():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        layer = Distance(3)
        layer.build((None, 4))
    assert is_adder_filter(layer.kernel)


def test_mark_when_a_variable_is_created_in_a_stateless_scope():
    # Symbolic building may create the variable before its value.
    with keras.StatelessScope():
        variable = mark_adder_filter(
            keras.Variable(keras.initializers.Zeros(), shape=(2,))
        )
    assert is_adder_filter(variable)


@pytest.mark.parametrize("value", [None, 3.0, np.ones(2), tf.ones(2), "kernel"])
def test_mark_refuses_what_is_no_variable(value):
    with pytest.raises(TypeError, match="`variable` must be.*Received"):
        mark_adder_filter(value)
    assert is_adder_filter(value) is False
