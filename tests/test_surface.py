"""What one finds by typing `keras_adder.` and nothing else."""

import types

import keras_adder
from keras_adder.operations import Summary


def test_only_what_is_meant_is_public():
    public = {name for name in vars(keras_adder) if not name.startswith("_")}
    # Modules of this package that it imports are found as well.
    expected = set(keras_adder.__all__) - {"__version__"}
    assert public - expected == {"filters", "operations"}
    assert not any(
        isinstance(value, types.ModuleType)
        and not value.__name__.startswith("keras_adder")
        for name, value in vars(keras_adder).items()
        if name in public
    )


def test_no_function_hides_a_module():
    model = keras_adder.applications.LeNet5()
    table = keras_adder.summary(model, print_fn=lambda text: None)
    assert isinstance(table, Summary)
