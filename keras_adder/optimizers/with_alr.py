from collections.abc import Sequence
from typing import NoReturn

import keras

from keras_adder._typing import Tensor
from keras_adder._typing import Variable
from keras_adder.filters import is_adder_filter
from keras_adder.optimizers.alr import ALR

_ADDER_FILTERS = "adder filters"


class _ByMark(keras.optimizers.OptimizerMap):
    """Gives adder filters to one optimizer and the rest to another."""

    def __call__(self, variable: Variable) -> keras.optimizers.Optimizer:
        if is_adder_filter(variable):
            return self[_ADDER_FILTERS]
        return self.default_optimizer


@keras.saving.register_keras_serializable(package="keras_adder")
class WithALR(keras.optimizers.MultiOptimizer):
    """Any optimizer, with `keras_adder.ALR` for the adder filters.

    Adder filters need steps of a fixed norm, which is what `keras_adder.ALR`
    takes; everything else may be trained by what one would use otherwise. Each
    of the two has its own learning rate or schedule, clipping and weight
    decay.

    `learning_rate` is that of `optimizer`. Setting it, as
    `keras.callbacks.LearningRateScheduler` and
    `keras.callbacks.ReduceLROnPlateau` do, scales both: that of `alr` keeps
    the ratio to it that it had in the beginning. As in any Keras optimizer, a
    learning rate that is a schedule cannot be set. (An assignment to the
    variable, `learning_rate.assign(...)`, changes that of `optimizer` alone.)

    With `use_ema=True` in both, averages replace the weights when `fit()` ends;
    `keras.callbacks.SwapEMAWeights` is not supported.

    Args:
        optimizer: A `keras.optimizers.Optimizer` or the name of one, for all
            variables that are not adder filters.
        alr: A `keras_adder.ALR`, for the adder filters. Defaults to `None`,
            which is `keras_adder.ALR()`.
        loss_scale_factor: `None` or float. As in `keras.optimizers.Optimizer`;
            it replaces that of both.
        name: String. The name of the optimizer.

    Raises:
        TypeError: If `optimizer` or `alr` is not one of the above.

    Example:

    >>> steps = 10 * 47
    >>> cosine = keras.optimizers.schedules.CosineDecay
    >>> optimizer = keras_adder.WithALR(
    ...     keras.optimizers.AdamW(cosine(1e-3, steps)),
    ...     keras_adder.ALR(cosine(0.1, steps)),
    ... )
    >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        alr: ALR | None = None,
        loss_scale_factor: float | None = None,
        name: str = "WithALR",
    ) -> None:
        if isinstance(optimizer, str):
            optimizer = keras.optimizers.get(optimizer)
        wrappers = (
            keras.optimizers.LossScaleOptimizer,
            keras.optimizers.MultiOptimizer,
        )
        if not isinstance(optimizer, keras.optimizers.Optimizer) or isinstance(
            optimizer, wrappers
        ):
            raise TypeError(
                "`optimizer` must be a `keras.optimizers.Optimizer`, and none "
                "that wraps another. "
                f"Received: optimizer={optimizer} (of type {type(optimizer)})"
            )
        if alr is None:
            alr = ALR()
        if not isinstance(alr, ALR):
            raise TypeError(
                "`alr` must be a `keras_adder.ALR` or `None`. "
                f"Received: alr={alr} (of type {type(alr)})"
            )
        super().__init__(
            _ByMark(optimizer, {_ADDER_FILTERS: alr}),
            loss_scale_factor=loss_scale_factor,
            name=name,
        )
        self.optimizer = optimizer
        self.alr = alr
        self._ratio = _ratio_of(alr, optimizer)

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Exclude variables from the weight decay of both optimizers."""
        for optimizer in (self.optimizer, self.alr):
            optimizer.exclude_from_weight_decay(var_list, var_names)

    @property
    def optimizers(self) -> NoReturn:
        # By this callbacks know a `MultiOptimizer`, and then give both of its
        # optimizers one learning rate instead of setting its own.
        raise AttributeError(
            "`WithALR` has an `optimizer` and an `alr`, and no `optimizers`."
        )

    @property
    def learning_rate(self) -> Tensor:
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Tensor) -> None:
        if self._ratio is None:
            raise TypeError(
                "The learning rate of `WithALR` can be set where those of "
                "`optimizer` and `alr` were numbers, and that of `optimizer` "
                "was not 0: `alr` keeps its ratio to it. Received: "
                f"optimizer.learning_rate={_rate_of(self.optimizer)}, "
                f"alr.learning_rate={_rate_of(self.alr)}. Set "
                "`optimizer.optimizer.learning_rate` and "
                "`optimizer.alr.learning_rate` instead."
            )
        self.optimizer.learning_rate = learning_rate
        self.alr.learning_rate = learning_rate * self._ratio

    def get_config(self) -> dict:
        serialize = keras.saving.serialize_keras_object
        return {
            "optimizer": serialize(self.optimizer),
            "alr": serialize(self.alr),
            "loss_scale_factor": self.loss_scale_factor,
            "name": self.name,
            # Learning rates that have fallen to 0 would not tell.
            "learning_rate_ratio": self._ratio,
        }

    @classmethod
    def from_config(
        cls, config: dict, custom_objects: dict | None = None
    ) -> "WithALR":
        config = dict(config)
        ratio = config.pop("learning_rate_ratio", None)
        for name in ("optimizer", "alr"):
            config[name] = keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
        optimizer = cls(**config)
        optimizer._ratio = ratio
        return optimizer


def _ratio_of(alr, optimizer):
    """The ratio of learning rates that are numbers, None if one is not."""
    rates = [_rate_of(alr), _rate_of(optimizer)]
    if not all(isinstance(rate, float) for rate in rates) or rates[1] == 0:
        return None
    return rates[0] / rates[1]


def _rate_of(optimizer):
    return optimizer.get_config()["learning_rate"]
