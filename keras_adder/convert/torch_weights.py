import collections.abc
import os
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_adder.filters import is_adder_filter

# PyTorch counts the batches for a momentum that none of these models has.
_UNUSED = "num_batches_tracked"
_DATA_PARALLEL = "module."

_NORMALIZATION = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load_torch_state_dict(
    model: keras.Model, state_dict: str | os.PathLike[str] | Mapping[str, Any]
) -> None:
    """Loads weights of the AdderNet authors' PyTorch models.

    It is for the residual networks of `keras_adder.applications` with
    `include_top=True`, whose layers are those of the `resnet20.py` and
    `resnet50.py` in the authors' code (https://github.com/huawei-noah/AdderNet)
    or are named by the same pattern: `ResNet20`, `ResNet32`, `ResNet18`,
    `ResNet34`, `ResNet50` and `ResNet101`. With `adder=False` it expects
    convolutions in place of the adder layers, `layer1.0.conv1.weight` for
    `layer1.0.conv1.adder`.

    All names and shapes are checked before any weight is assigned.

    Args:
        model: `keras.Model`, the one to load into.
        state_dict: dict of the names to NumPy arrays or PyTorch tensors, what
            `state_dict()` returns; also that of a `DataParallel` model, whose
            names start with `module.`. Or the path of a file to which it was
            saved by `torch.save`; PyTorch is needed to read that, and reads
            it by `weights_only=True`, which runs no code from the file.

    Raises:
        TypeError: If `model` is not a `keras.Model`; or if `state_dict` is
            neither, nor is what a file holds.
        ImportError: If it is a path and PyTorch is not installed.
        ValueError: If the layers of `model` are not those of these models; if
            `state_dict` lacks a weight of the model, holds one that the model
            has not, or one of another shape; or if the file is another one
            than `torch.save` makes of a state dict, for example one of a whole
            `torch.nn.Module`, as the authors' scripts save it.

    Example:

    ```python
    model = keras_adder.applications.ResNet20()
    keras_adder.convert.load_torch_state_dict(model, "ResNet20-AdderNet.pth")
    ```
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a `keras.Model`. "
            f"Received: model={model} (of type {type(model)})"
        )
    arrays = _read(state_dict)
    variables = _variables_by_torch_name(model)
    missing = sorted(variables.keys() - arrays.keys())
    unexpected = sorted(arrays.keys() - variables.keys())
    if missing or unexpected:
        raise ValueError(
            "`state_dict` must hold the weights of `model`, each by its name "
            f"in PyTorch. Missing: {missing or 'none'}; unexpected: "
            f"{unexpected or 'none'}. Received: model={model}"
        )
    values = {name: _in_the_order_of_keras(arrays[name]) for name in variables}
    wrong = [
        f"{name}: {values[name].shape}, expected {tuple(variable.shape)}"
        for name, variable in variables.items()
        if values[name].shape != tuple(variable.shape)
    ]
    if wrong:
        raise ValueError(
            "The arrays in `state_dict` must have the shapes of the weights of "
            "`model` (of kernels: height, width, input channels, filters). "
            f"Received: {'; '.join(wrong)}"
        )
    for name, variable in variables.items():
        variable.assign(values[name])


def _read(state_dict):
    """Returns a dict of NumPy arrays by their names, the unused left out."""
    if isinstance(state_dict, (str, os.PathLike)):
        state_dict = _read_file(state_dict)
    if not isinstance(state_dict, collections.abc.Mapping):
        raise TypeError(
            "`state_dict` must be a mapping of names to arrays, or the path of "
            "a file that holds one: in PyTorch, save `model.state_dict()`. "
            f"Received: a value of type {type(state_dict)}"
        )
    arrays = {}
    for name, value in state_dict.items():
        if not isinstance(name, str) or isinstance(
            value, collections.abc.Mapping
        ):
            raise TypeError(
                "`state_dict` must hold arrays by their names. Of a checkpoint "
                "that holds a state dict among other things, pass that alone. "
                f"Received: {name!r}, with a value of type {type(value)}"
            )
        if name.rpartition(".")[2] == _UNUSED:
            continue
        name = name.removeprefix(_DATA_PARALLEL)
        if name in arrays:
            raise ValueError(
                "`state_dict` must hold each weight once. Received: "
                f"'{name}' twice, with '{_DATA_PARALLEL}' before it and without"
            )
        arrays[name] = _to_numpy(value)
    return arrays


def _read_file(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "`state_dict` is a path, and to read the file PyTorch is needed: "
            f"`pip install torch`. Received: state_dict={path}"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # Whatever pickle, zipfile or PyTorch finds wrong with it.
    except Exception as error:
        raise ValueError(
            "`state_dict` must be the path of a file that holds a state dict. "
            "If this one holds a whole model, load it in PyTorch and save its "
            f"`state_dict()`. Received: state_dict={path}, which cannot be "
            f"read ({type(error).__name__})"
        ) from error


def _to_numpy(value):
    if hasattr(value, "detach"):  # of PyTorch, and maybe bfloat16 or on a GPU
        value = value.detach().cpu().float().numpy()
    return np.asarray(value)


def _in_the_order_of_keras(array):
    """From filters, input channels, height, width; vectors stay."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _variables_by_torch_name(model):
    variables = {}
    for layer in model.layers:
        if not layer.weights:
            continue
        prefix = _torch_name(layer.name)
        if isinstance(layer, keras.layers.BatchNormalization):
            names = {
                attribute: f"{prefix}.{name}"
                for attribute, name in _NORMALIZATION.items()
            }
        elif prefix is not None and isinstance(layer, keras.layers.Conv2D):
            kernel = "adder" if is_adder_filter(layer.kernel) else "weight"
            names = {"kernel": f"{prefix}.{kernel}"}
            if layer.use_bias:
                names["bias"] = f"{prefix}.bias"
        else:
            prefix = None
        if prefix is None:
            raise ValueError(
                "`model` must be a residual network of "
                "`keras_adder.applications`; the layer "
                f"'{layer.name}' has no counterpart in the authors' models. "
                f"Received: model={model}"
            )
        for attribute, name in names.items():
            variables[name] = getattr(layer, attribute)
    return variables


def _torch_name(name):
    """The name in PyTorch of a layer of ours, or None."""
    if name in ("conv1_conv", "fc_conv"):
        return name.removesuffix("_conv")
    if name == "conv1_bn":
        return "bn1"
    if name == "fc_bn":
        return "bn2"
    match = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", name)
    if match is None:
        return None
    stage, block, number, kind = match.groups()
    prefix = f"layer{int(stage) - 1}.{int(block) - 1}"
    if number == "0":
        return f"{prefix}.downsample.{0 if kind == 'conv' else 1}"
    return f"{prefix}.{kind}{number}"
