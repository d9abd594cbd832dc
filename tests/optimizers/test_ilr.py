import numpy as np
import pytest
import tensorflow as tf
from optimizers.oracle import AuthorsSGD
from optimizers.oracle import ilr
from optimizers.oracle import relative_error
from optimizers.oracle import variable

from keras_adder.optimizers import ILR


def step(gradient, **kwargs):
    v = variable(np.zeros_like(gradient))
    optimizer = ILR(1.0, momentum=0.0, **kwargs)
    optimizer.apply([tf.constant(gradient, "float32")], [v])
    return -v.numpy()


@pytest.mark.parametrize("decay", [None, 5e-4])
@pytest.mark.parametrize("nesterov", [False, True])
def test_twelve_steps(nesterov, decay):
    rng = np.random.default_rng(0)
    expected = [rng.normal(size=(3, 3, 4, 6)), rng.normal(size=(5, 4))]
    variables = [variable(w, adder=i == 0) for i, w in enumerate(expected)]
    optimizer = ILR(0.1, 30.0, nesterov=nesterov, weight_decay=decay)
    oracles = [
        AuthorsSGD(0.1, 0.9, nesterov, decay or 0.0, rescale)
        for rescale in (ilr(30.0), None)
    ]
    for _ in range(12):
        gradients = [rng.normal(size=w.shape) for w in expected]
        optimizer.apply(
            [tf.constant(g, "float32") for g in gradients], variables
        )
        expected = [
            o.step(w, g) for o, w, g in zip(oracles, expected, gradients)
        ]
    for v, w in zip(variables, expected):
        assert relative_error(v, w) < 1e-5


def test_default_arguments():
    config = ILR().get_config()
    assert config["name"] == "ILR"
    assert config["learning_rate"] == pytest.approx(0.1)
    assert config["factor"] == 100.0
    assert config["momentum"] == 0.9
    assert config["weight_decay"] is None


def test_clipping_comes_before_the_factor():
    moved = step(np.array([3.0, 4.0]), factor=10.0, clipnorm=1.0)
    np.testing.assert_allclose(moved, [6.0, 8.0], rtol=1e-6)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), None, "x", False])
def test_factor_is_checked(factor):
    with pytest.raises(
        ValueError, match=r"`factor` must be.*Received: factor="
    ):
        ILR(factor=factor)
