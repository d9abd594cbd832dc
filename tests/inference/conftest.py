import keras
import pytest
from fused_networks import residual


@pytest.fixture(scope="module")
def model():
    """A residual network, which no test changes."""
    # The layers' names are the same in whatever order modules run.
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    return residual()
