"""Trained models made for inference: folded, and in integers.

fast = keras_adder.inference.optimize(model, "int8", calibration=images)
keras_adder.inference.report(model, fast, (x_test, y_test))
"""

from keras_adder.inference.optimization import optimize
from keras_adder.inference.reporting import Report
from keras_adder.inference.reporting import report
from keras_adder.layers import FusedAdderConv2D
from keras_adder.layers import FusedAdderDense

__all__ = [
    "FusedAdderConv2D",
    "FusedAdderDense",
    "Report",
    "optimize",
    "report",
]
