"""Types of arguments, under the names that Keras's documentation gives them.

Keras and TensorFlow come without types: to a type checker their own are `Any`.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

# What converts to a tensor, or a symbolic tensor of a functional model.
Tensor = Any
Variable = Any
Shape = tuple[int | None, ...]

IntOrPair = int | Sequence[int]
# "valid", "same", or zeros before and after, for height and width.
Padding = str | Sequence[Sequence[int]]

# A name, an object, a function, or a serialized object.
Activation = str | Callable[[Tensor], Tensor] | dict[str, Any] | None
Initializer = str | Callable[..., Tensor] | dict[str, Any] | None
Regularizer = str | Callable[[Tensor], Tensor] | dict[str, Any] | None
Constraint = str | Callable[[Tensor], Tensor] | dict[str, Any] | None

# A number, a schedule, or a function without arguments.
LearningRate = Any
