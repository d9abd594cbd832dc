"""Which variables are adder filters: one mark, one predicate.

The optimizers treat adder filters differently from every other variable and
ask here which ones they are. The layers of this package mark theirs in
`build()`; a user's own layer opts in the same way.
"""

import keras
import tensorflow as tf

from keras_adder._typing import Variable

_MARK = "_keras_adder_is_adder_filter"


def mark_adder_filter(variable: Variable) -> Variable:
    """Marks a variable as an adder filter.

    The adder layers of this package mark their filters themselves. A layer of
    your own opts in by marking its variable in `build()`: Keras runs `build()`
    again whenever it loads or clones the layer, so the mark needs no saving.
    Optimizers read the mark once, when they are built; mark before that.

    Args:
        variable: A `keras.Variable` (or `tf.Variable`), created inside or
            outside a `tf.distribute` scope.

    Returns:
        The same variable, so that the call can wrap its creation.

    Raises:
        TypeError: If `variable` is neither of the two.

    Example:

    ```python
    import keras
    from keras_adder import is_adder_filter, mark_adder_filter

    class Distance(keras.layers.Layer):
        def build(self, input_shape):
            self.centre = mark_adder_filter(
                self.add_weight(shape=(input_shape[-1],), name="centre")
            )

        def call(self, x):
            return -keras.ops.abs(x - self.centre)

    layer = Distance()
    layer.build((None, 3))
    is_adder_filter(layer.centre)  # True
    ```
    """
    if not isinstance(variable, (keras.Variable, tf.Variable)):
        raise TypeError(
            "`variable` must be a `keras.Variable` or a `tf.Variable`. "
            f"Received: variable={variable} (of type {type(variable)})"
        )
    setattr(variable, _MARK, True)
    # A custom loop may hand the optimizer `tape.watched_variables()`, which
    # are the `tf.Variable`s behind the Keras ones, so those carry it as well.
    if isinstance(variable, keras.Variable) and isinstance(
        variable.value, tf.Variable
    ):
        setattr(variable.value, _MARK, True)
    return variable


def is_adder_filter(variable: Variable) -> bool:
    """Whether a variable was marked as an adder filter.

    Args:
        variable: A `keras.Variable` (or the `tf.Variable` behind one).

    Returns:
        `True` if `keras_adder.mark_adder_filter` was called on it, as the
        layers of this package do for their filters; `False` otherwise.

    Example:

    ```python
    import keras
    from keras_adder import is_adder_filter, mark_adder_filter

    variable = keras.Variable([1.0, 2.0])
    is_adder_filter(variable)  # False
    is_adder_filter(mark_adder_filter(variable))  # True
    ```
    """
    return getattr(variable, _MARK, False)
