"""Models with the signature of Keras Applications."""

from keras_adder.applications import lenet
from keras_adder.applications import mobilenet_v2
from keras_adder.applications import resnet
from keras_adder.applications import resnet_cifar
from keras_adder.applications import vgg_small
from keras_adder.applications.lenet import LeNet5
from keras_adder.applications.lenet import LeNetPlusPlus
from keras_adder.applications.mobilenet_v2 import MobileNetV2
from keras_adder.applications.resnet import ResNet18
from keras_adder.applications.resnet import ResNet34
from keras_adder.applications.resnet import ResNet50
from keras_adder.applications.resnet import ResNet101
from keras_adder.applications.resnet_cifar import ResNet20
from keras_adder.applications.resnet_cifar import ResNet32
from keras_adder.applications.vgg_small import VGGSmall

__all__ = [
    "LeNet5",
    "LeNetPlusPlus",
    "MobileNetV2",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "VGGSmall",
    "lenet",
    "mobilenet_v2",
    "resnet",
    "resnet_cifar",
    "vgg_small",
]
