"""What ALR and ILR share: SGD that treats adder filters differently."""

import contextlib
import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_adder._typing import Tensor
from keras_adder._typing import Variable
from keras_adder.filters import is_adder_filter


class AdderSGD(keras.optimizers.SGD):
    """Base class of the optimizers that rescale adder filters' gradients.

    For every variable `w` with gradient `g` (reduced over replicas, unscaled,
    accumulated and clipped, if any of these was asked for):

    ```python
    g = rescale_gradient(g)    # adder filters only
    g = g + weight_decay * w   # unless excluded
    ```

    and then whatever `keras.optimizers.SGD` does with `g`.

    Subclasses implement `rescale_gradient()`.

    Args:
        weight_decay: Float >= 0 or `None`. The coupled weight decay.
        **kwargs: Every other argument of `keras.optimizers.SGD`.
    """

    def __init__(
        self, weight_decay: float | None = None, **kwargs: Any
    ) -> None:
        if weight_decay is not None:
            weight_decay = check_number("weight_decay", weight_decay, zero=True)
        super().__init__(weight_decay=weight_decay, **kwargs)
        self._exclusion: _Exclusion | None = None

    def build(self, variables: Sequence[Variable]) -> None:
        """Initialize optimizer variables and remember the adder filters.

        Args:
            variables: List of the model's trainable variables.
        """
        if self.built:
            return
        if self._exclusion is not None and self._exclusion.config is not None:
            config = self._exclusion.config
            self.exclude_from_weight_decay(
                var_list=_find_excluded(config, variables),
                var_names=config["var_names"],
            )
        super().build(variables)
        # By index, because `update_step()` is given a replica's `tf.Variable`
        # and not the variable that was marked. A frozenset, because Keras and
        # TensorFlow wrap and track an attribute that is a list, set or dict.
        self._adder_filter_indices = frozenset(
            index
            for index, variable in enumerate(variables)
            if is_adder_filter(variable)
        )

    def update_step(
        self, gradient: Tensor, variable: Variable, learning_rate: Tensor
    ) -> None:
        """Update step given gradient and the associated model variable."""
        index = self._get_variable_index(variable)
        rescale = index in self._adder_filter_indices
        decay = bool(self.weight_decay) and self._use_weight_decay(variable)
        if rescale or decay:
            gradient = _to_dense(gradient, variable)
        if rescale:
            gradient = self.rescale_gradient(gradient)
        if decay:
            gradient += self.weight_decay * ops.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Exclude variables from weight decay.

        As in `keras.optimizers.SGD`, except that it becomes part of the
        config, so that a saved model resumes with it.

        Args:
            var_list: A list of `Variable`s to exclude from weight decay.
            var_names: A list of strings. A variable in whose name any of them
                appears is excluded from weight decay.
        """
        var_list, var_names = list(var_list or []), list(var_names or [])
        super().exclude_from_weight_decay(var_list, var_names)
        self._exclusion = _Exclusion(var_list, var_names)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if self._exclusion is not None:
            config["exclude_from_weight_decay"] = self._exclusion_config()
        return config

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> "AdderSGD":
        """Creates an optimizer from its config."""
        config = dict(config)
        exclusion = config.pop("exclude_from_weight_decay", None)
        optimizer = super().from_config(config, custom_objects=custom_objects)
        if exclusion is not None:
            # Which variables these are is known when it is built.
            optimizer._exclusion = _Exclusion(config=exclusion)
        return optimizer

    def _exclusion_config(self):
        exclusion = self._exclusion
        assert exclusion is not None
        if exclusion.config is not None:
            return exclusion.config
        indices = []
        if self.built:
            for variable in exclusion.var_list:
                with contextlib.suppress(KeyError):  # It is not trained.
                    indices.append(self._get_variable_index(variable))
        return {
            "var_names": sorted(set(exclusion.var_names)),
            "var_paths": sorted({_path(v) for v in exclusion.var_list}),
            "var_indices": sorted(set(indices)),
            "var_count": len(self._trainable_variables) if self.built else None,
        }

    def rescale_gradient(self, gradient: Tensor) -> Tensor:
        """Rescales the gradient of one adder filter.

        Args:
            gradient: Dense float32 or float64 tensor of the filter's shape.

        Returns:
            A tensor of the same shape and dtype.
        """
        raise NotImplementedError

    def _apply_weight_decay(self, variables):
        # The base class would apply `weight_decay` a second time, decoupled
        # from the gradient. `update_step()` has it in the gradient already.
        pass


def check_number(name, value, zero=False):
    """Returns `value` as a float if it is a finite number > 0 (or >= 0)."""
    valid = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if valid:
        valid = math.isfinite(value) and (value > 0 or (zero and value == 0))
    if not valid:
        raise ValueError(
            f"`{name}` must be a finite number {'>=' if zero else '>'} 0. "
            f"Received: {name}={value}"
        )
    return float(value)


class _Exclusion:
    """What is excluded from weight decay.

    An object of its own, because Keras and TensorFlow would track a list of
    variables, or a dict, that is an attribute of the optimizer.

    Args:
        var_list, var_names: Lists, as given by the user.
        config: Or else a dict, as restored, until the optimizer is built.
    """

    def __init__(self, var_list=None, var_names=None, config=None):
        self.var_list = var_list
        self.var_names = var_names
        self.config = config


def _find_excluded(config, variables):
    """The variables of a config's `var_list` among those of a model."""
    # By index, as Keras restores the momentum. Paths may change by loading:
    # `sequential/dense/kernel` becomes `dense/kernel`.
    if config["var_count"] == len(variables):
        return [variables[index] for index in config["var_indices"]]
    paths = set(config["var_paths"])
    found = [variable for variable in variables if _path(variable) in paths]
    missing = sorted(paths - {_path(variable) for variable in found})
    if missing:
        warnings.warn(
            "Some variables that were excluded from weight decay are not "
            "among those that the optimizer is built with; call "
            "`exclude_from_weight_decay()` again before it is built. "
            f"Not found: {missing}",
            stacklevel=3,
        )
    return found


def _path(variable):
    # A `tf.Variable` has a name alone.
    return getattr(variable, "path", variable.name)


def _to_dense(gradient, variable):
    """Gradient as a dense tensor, at least float32, of the variable's shape."""
    # A half holds neither the square of a small gradient nor the sum of many.
    dtype = keras.backend.result_type(variable.dtype, "float32")
    if isinstance(gradient, tf.IndexedSlices):
        # Both the norm and weight decay concern every row. Repeated indices
        # have to be summed, before anything else is done to them.
        gradient = tf.math.unsorted_segment_sum(
            tf.cast(gradient.values, dtype),
            gradient.indices,
            variable.shape[0],
        )
    # A gradient inside a `tf.function` may not know its shape.
    return tf.ensure_shape(ops.cast(gradient, dtype), variable.shape)


# The arguments that ALR and ILR hand on to `keras.optimizers.SGD`; written
# into their docstrings, as Keras does with its own.
KEYWORD_ARGS = """momentum: Float in [0, 1]. 0 is plain gradient descent.
            Defaults to `0.9`, the paper's.
        nesterov: Boolean. Whether to apply Nesterov momentum. Defaults to
            `False`.
        weight_decay: Float >= 0 or `None`. If set, `weight_decay * w` is added
            to the gradient of every variable `w`, after the rescaling and
            before the momentum. This is the *coupled* (l2) decay of the
            paper's recipes and of PyTorch's SGD; Keras's own optimizers shrink
            the variable by `learning_rate * weight_decay` beside the update.
            `exclude_from_weight_decay()` works as in Keras, and is saved with
            the optimizer. Defaults to `None`.
        clipnorm: Float. If set, the gradient of each weight is individually
            clipped so that its norm is no higher than this value. All
            clipping comes before the rescaling; see "Clipping" above.
        clipvalue: Float. If set, the gradient of each weight is clipped to be
            no higher than this value.
        global_clipnorm: Float. If set, the gradient of all weights is clipped
            so that their global norm is no higher than this value.
        use_ema: Boolean, defaults to `False`. If `True`, an exponential moving
            average of the model's weights is kept, which replaces the weights
            when `fit()` ends.
        ema_momentum: Float, defaults to 0.99. Only used if `use_ema=True`.
            `new_average = ema_momentum * old_average + (1 - ema_momentum) *
            current_variable_value`.
        ema_overwrite_frequency: Int or None, defaults to None. Only used if
            `use_ema=True`. The weights are overwritten with their average
            every so many steps; with `None`, only at the end.
        loss_scale_factor: Float or `None`. If a float, the loss is multiplied
            by it before gradients are computed, and gradients by its inverse
            before the update.
        gradient_accumulation_steps: Int or `None`. If an int, variables are
            updated every so many steps with the average of the gradients
            since the last update. It is this average that is rescaled.
        name: String. The name to use for momentum accumulator weights created
            by the optimizer."""
