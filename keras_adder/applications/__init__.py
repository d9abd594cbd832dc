"""Models with the signature of Keras Applications."""

from keras_adder.applications.lenet import LeNet5

__all__ = ["LeNet5"]
