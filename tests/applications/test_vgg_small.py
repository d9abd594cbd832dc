from applications.counting import Count
from applications.counting import images

from keras_adder.applications import VGGSmall
from keras_adder.applications import vgg_small


def count(classes):
    total = Count(32, 3)
    for filters in (128, 256, 512):
        total.conv(filters, 3).conv(filters, 3).pool()
    total.channels *= total.size**2  # the dense layer sees all positions
    return total.classifier(classes)


def test_counts_by_hand():
    total = count(10)
    # The paper says 0.65G.
    assert total.both == (607_600_640, 4_660_116)
    assert total.of(VGGSmall(adder=False)) == total.both
    assert count(100).of(VGGSmall(classes=100)) == count(100).both


def test_layers_read_like_the_table_of_the_paper():
    names = [layer.name for layer in VGGSmall().layers[1:]]
    blocks = [
        [
            f"block{i}_{part}"
            for part in (
                "1_conv",
                "1_bn",
                "1_relu",
                "2_conv",
                "2_bn",
                "2_relu",
                "pool",
            )
        ]
        for i in (1, 2, 3)
    ]
    top = ["flatten", "fc_dense", "fc_bn", "predictions"]
    assert names == sum(blocks, []) + top


def test_its_preprocessing_is_that_for_cifar():
    x = images(2, 4, 4, 3)
    assert vgg_small.preprocess_input(x).shape == x.shape
