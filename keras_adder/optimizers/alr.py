import math
from typing import Any

import keras
from keras import ops

from keras_adder._typing import LearningRate
from keras_adder._typing import Tensor
from keras_adder.optimizers.adder_sgd import KEYWORD_ARGS
from keras_adder.optimizers.adder_sgd import AdderSGD
from keras_adder.optimizers.adder_sgd import check_number

# The authors' guard against a gradient that is all zeros.
_MIN_NORM = 1e-12


@keras.saving.register_keras_serializable(package="keras_adder")
class ALR(AdderSGD):
    """SGD with the adaptive learning rate of AdderNets.

    The gradients of adder filters are orders of magnitude smaller than those
    of convolution filters, and differ from layer to layer. ALR gives the
    gradient `g` of each adder filter a fixed root mean square before the
    ordinary update:

    ```python
    g = eta * sqrt(k) * g / max(norm(g), 1e-12)   # adder filters only
    g = g + weight_decay * w
    velocity = momentum * velocity - learning_rate * g
    w = w + velocity
    ```

    where `k` is the number of elements of the filter `w` and `norm` the l2
    norm over all of them. When `nesterov=True`, the last line becomes:

    ```python
    w = w + momentum * velocity - learning_rate * g
    ```

    Every other variable skips the first line and trains as in
    `keras.optimizers.SGD`. Adder filters are the variables for which
    `keras_adder.is_adder_filter()` holds when the optimizer is built: those of
    `keras_adder.AdderConv2D` and `keras_adder.AdderDense`, and any that was
    passed to `keras_adder.mark_adder_filter()`. In a model without adder
    filters ALR is SGD with coupled weight decay.

    The norm is that of the gradient of the whole step: summed over the
    replicas of a `tf.distribute` strategy, averaged over accumulation steps,
    after unscaling the loss. It is computed in float32 for half precision
    variables. A gradient of zeros stays zero, and a NaN or an infinity makes
    the update of that filter NaN.

    Clipping: Keras clips gradients before they are rescaled. For an adder
    filter, `clipnorm` and `global_clipnorm` are therefore cancelled, and
    `clipvalue` alters the direction of the step but not its length. Other
    variables are clipped as in SGD, adder filters counting towards the global
    norm. Under a `tf.distribute` strategy Keras clips on each replica, before
    the sum.

    The learning rate is a factor of the velocity, as in Keras; the authors'
    PyTorch code multiplies by it when the velocity is applied. The two are
    the same at a constant learning rate and differ slightly under a schedule.

    Args:
        learning_rate: A float, a
            `keras.optimizers.schedules.LearningRateSchedule` instance, or
            a callable that takes no arguments and returns the actual value to
            use. The global learning rate (the paper's gamma). Defaults to
            `0.1`.
        eta: Float > 0. The root mean square that the gradient of an adder
            filter is rescaled to, so that without momentum and weight decay
            an element moves by `learning_rate * eta` in the mean; in the
            units of the filter's elements. The paper's eta, in
            `alpha = eta * sqrt(k) / norm(g)`. Defaults to `0.2`, the value in
            the authors' code.
        {{keyword_args}}

    Example:

    ```python
    import numpy as np
    import keras
    import keras_adder

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras_adder.AdderConv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras_adder.ALR(0.1, weight_decay=5e-4), loss="mse")
    model.fit(np.random.rand(32, 8, 8, 3), np.random.rand(32, 1))
    ```

    Reference:

    - [Chen et al., 2020](https://arxiv.org/abs/1912.13200), the section on
        adaptive learning rate scaling.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        eta: float = 0.2,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "ALR",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self.eta = check_number("eta", eta)

    def rescale_gradient(self, gradient: Tensor) -> Tensor:
        """Rescales the gradient of one adder filter to norm eta * sqrt(k)."""
        # Relative to the largest element, so that squares cannot overflow.
        peak = ops.max(ops.abs(gradient))
        peak = ops.where(peak > 0, peak, ops.ones_like(peak))
        gradient = gradient / peak
        norm = ops.sqrt(ops.sum(ops.square(gradient)))
        norm = ops.maximum(norm, _MIN_NORM / peak)
        target = self.eta * math.sqrt(math.prod(gradient.shape))
        return gradient * (target / norm)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update({"eta": self.eta})
        return config


if ALR.__doc__ is not None:
    ALR.__doc__ = ALR.__doc__.replace("{{keyword_args}}", KEYWORD_ARGS)
