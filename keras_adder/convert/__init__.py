"""Adder models from others: from a Keras CNN, or from PyTorch weights."""

from keras_adder.convert.cloning import to_adder
from keras_adder.convert.torch_weights import load_torch_state_dict

__all__ = ["load_torch_state_dict", "to_adder"]
