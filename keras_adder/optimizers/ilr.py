from typing import Any

import keras

from keras_adder._typing import LearningRate
from keras_adder._typing import Tensor
from keras_adder.optimizers.adder_sgd import KEYWORD_ARGS
from keras_adder.optimizers.adder_sgd import AdderSGD
from keras_adder.optimizers.adder_sgd import check_number


@keras.saving.register_keras_serializable(package="keras_adder")
class ILR(AdderSGD):
    """SGD with an increased learning rate for adder filters.

    The paper's ablation of `keras_adder.ALR`: instead of adapting to each
    layer, one constant factor makes up for the small gradients of all adder
    filters. The gradient `g` of a variable `w` is used as follows:

    ```python
    g = factor * g   # adder filters only
    g = g + weight_decay * w
    velocity = momentum * velocity - learning_rate * g
    w = w + velocity
    ```

    When `nesterov=True`, the last line becomes:

    ```python
    w = w + momentum * velocity - learning_rate * g
    ```

    Every other variable skips the first line and trains as in
    `keras.optimizers.SGD`. Adder filters are the variables for which
    `keras_adder.is_adder_filter()` holds when the optimizer is built.

    Clipping: Keras clips gradients before they are multiplied, so for an
    adder filter the effective limit is `factor` times the given one.

    Args:
        learning_rate: A float, a
            `keras.optimizers.schedules.LearningRateSchedule` instance, or
            a callable that takes no arguments and returns the actual value to
            use. The global learning rate. Defaults to `0.1`.
        factor: Float > 0, without a unit. What the gradient of an adder filter
            is multiplied by. Defaults to `100.0`, the order of magnitude in
            the paper's ablation.
        {{keyword_args}}

    Example:

    ```python
    import numpy as np
    import keras
    import keras_adder

    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras_adder.AdderDense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras_adder.ILR(0.01, factor=100.0), loss="mse")
    model.fit(np.random.rand(32, 8), np.random.rand(32, 1))
    ```

    Reference:

    - [Chen et al., 2020](https://arxiv.org/abs/1912.13200)
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        factor: float = 100.0,
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
        name: str = "ILR",
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
        self.factor = check_number("factor", factor)

    def rescale_gradient(self, gradient: Tensor) -> Tensor:
        """Multiplies the gradient of one adder filter by the factor."""
        return gradient * self.factor

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update({"factor": self.factor})
        return config


if ILR.__doc__ is not None:
    ILR.__doc__ = ILR.__doc__.replace("{{keyword_args}}", KEYWORD_ARGS)
