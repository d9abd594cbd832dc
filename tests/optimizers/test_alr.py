import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizers.oracle import AuthorsSGD
from optimizers.oracle import alr
from optimizers.oracle import relative_error
from optimizers.oracle import variable

from keras_adder.optimizers import ALR


def step(gradient, start=0.0, eta=0.2, dtype="float32", **kwargs):
    """How far one step at learning rate 1 moves an adder filter."""
    v = variable(np.full(np.shape(gradient), start), dtype=dtype)
    optimizer = ALR(1.0, eta=eta, momentum=0.0, **kwargs)
    optimizer.apply([tf.constant(gradient, dtype)], [v])
    return start - np.array(keras.ops.cast(v, "float64"))


def norm(x):
    return np.sqrt(np.sum(np.square(np.asarray(x, "float64"))))


@pytest.mark.parametrize("decay", [None, 5e-4])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_twelve_steps_of_the_authors_update(momentum, nesterov, decay):
    rng = np.random.default_rng(0)
    shapes = {"filter": (3, 3, 4, 6), "kernel": (5, 4), "bias": (4,)}
    start = [rng.normal(size=shape) for shape in shapes.values()]
    variables = [
        variable(value, adder=name == "filter", name=name)
        for name, value in zip(shapes, start)
    ]
    optimizer = ALR(
        0.1, eta=0.3, momentum=momentum, nesterov=nesterov, weight_decay=decay
    )
    oracles = [
        AuthorsSGD(0.1, momentum, nesterov, decay or 0.0, rescale)
        for rescale in (alr(0.3), None, None)
    ]
    expected = start
    for _ in range(12):
        # Adder filters' gradients are small, as in the paper.
        gradients = [
            rng.normal(size=w.shape) * size
            for w, size in zip(start, (1e-4, 1.0, 1.0))
        ]
        optimizer.apply(
            [tf.constant(g, "float32") for g in gradients], variables
        )
        expected = [
            o.step(w, g) for o, w, g in zip(oracles, expected, gradients)
        ]
    for v, w in zip(variables, expected):
        assert relative_error(v, w) < 1e-5


def test_default_arguments_are_the_authors():
    config = ALR().get_config()
    assert config["name"] == "ALR"
    assert config["learning_rate"] == pytest.approx(0.1)
    assert config["eta"] == 0.2
    assert config["momentum"] == 0.9
    assert config["nesterov"] is False
    assert config["weight_decay"] is None


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 3, 4, 6)])
def test_step_has_norm_eta_sqrt_k_and_the_gradient_s_direction(shape):
    gradient = np.random.default_rng(0).normal(size=shape)
    moved = step(gradient, eta=0.5)
    assert norm(moved) == pytest.approx(0.5 * np.sqrt(np.size(gradient)), 1e-5)
    np.testing.assert_allclose(
        moved / norm(moved), gradient / norm(gradient), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("size", [1e-9, 1e-5, 1.0, 1e10, 1e19, 1e30, 3e38])
def test_any_size_of_gradient(size):
    # 1e19 squared is already beyond float32, the norm of the last is as well.
    gradient = np.linspace(-1.0, 1.0, 1000) * size
    np.testing.assert_allclose(
        step(gradient), alr(0.2)(gradient), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("size", [1e-13, 1e-14, 1e-20, 1e-35])
def test_a_norm_below_the_authors_clamp(size):
    gradient = np.linspace(-1.0, 1.0, 10) * size
    expected = alr(0.2)(gradient)
    assert 0 < norm(expected) < 0.2 * np.sqrt(10)
    np.testing.assert_allclose(step(gradient), expected, rtol=1e-5, atol=1e-38)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_zero_gradient_moves_nothing(dtype):
    np.testing.assert_array_equal(step(np.zeros(8), 1.0, dtype=dtype), 0.0)


def test_zero_gradient_still_decays():
    moved = step(np.zeros(8), 1.0, weight_decay=0.25)
    np.testing.assert_array_equal(moved, np.full(8, 0.25))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_shows(bad):
    assert np.isnan(step(np.array([1.0, bad, 2.0, 3.0]))).any()


@pytest.mark.parametrize("size", [1e-4, 1.0, 200.0])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_has_its_norm_in_float32(dtype, size):
    # In half, the squares of 1e-4 vanish and those of 200 overflow; in
    # bfloat16 a sum of 1e5 ones stops at 256.
    gradient = np.full(100_000, size)
    np.testing.assert_allclose(step(gradient, dtype=dtype), 0.2, rtol=0.01)


def test_float64_is_computed_in_float64():
    gradient = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(
        step(gradient, dtype="float64"), alr(0.2)(gradient), rtol=1e-13
    )


@pytest.mark.parametrize(
    "clipping", [{"clipnorm": 1e-3}, {"global_clipnorm": 1e-3}]
)
def test_clipping_a_norm_is_cancelled(clipping):
    gradient = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(
        step(gradient, **clipping), step(gradient), rtol=1e-4
    )


def test_clipping_values_alters_the_direction_only():
    gradient = np.array([1.0, 2.0, -30.0])
    np.testing.assert_allclose(
        step(gradient, clipvalue=1.0), [0.2, 0.2, -0.2], rtol=1e-6
    )


@pytest.mark.parametrize(
    "eta", [0, 0.0, -0.2, float("nan"), float("inf"), None, "0.2", True, [0.2]]
)
def test_eta_is_checked(eta):
    with pytest.raises(ValueError, match=r"`eta` must be.*Received: eta="):
        ALR(eta=eta)


@pytest.mark.parametrize("eta", [1, np.float32(0.5), np.int64(2)])
def test_eta_may_be_any_real_number(eta):
    assert type(ALR(eta=eta).get_config()["eta"]) is float
