"""Ranges, steps and integers: the arithmetic of quantization, in NumPy.

A distance does not change when an offset is added to both sides, and for x in
[low, high] and any f

    |x - f| = |x - clip(f, low, high)| + |f - clip(f, low, high)|

So inputs and filters share one step and one zero point, filters are clipped to
the range of the inputs, and what was clipped is a constant of each filter.
"""

import dataclasses

import numpy as np

LEVELS = {"uint8": 255, "int16": 65535}
_LOWEST = {"uint8": 0, "int16": -32768}


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The integers of a tensor: value = (integer - zero_point) * scale.

    Attributes:
        dtype: string, `"uint8"` or `"int16"`.
        scale: float, a number that float32 holds exactly.
        zero_point: int.
        levels: int, how many steps there are from the lowest to the highest.
    """

    dtype: str
    scale: float
    zero_point: int
    levels: int

    @classmethod
    def of_range(
        cls, low: float, high: float, dtype: str, levels: int | None = None
    ) -> "Quantization":
        """The finest one that covers a range and zero, with a zero of its own.

        Args:
            low: float.
            high: float, larger than `low`.
            dtype: string, `"uint8"` or `"int16"`.
            levels: int, all that the type has if `None`.
        """
        levels = LEVELS[dtype] if levels is None else levels
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / levels))
        zero_point = _LOWEST[dtype] + round(min(-low / scale, levels))
        return cls(dtype, scale, zero_point, levels)

    @property
    def lowest(self) -> int:
        return _LOWEST[self.dtype]

    @property
    def highest(self) -> int:
        return self.lowest + self.levels

    @property
    def low(self) -> float:
        """The least number that there is an integer for."""
        return (self.lowest - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        return (self.highest - self.zero_point) * self.scale

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """The nearest integers."""
        steps = np.rint(np.asarray(values, "float64") / self.scale)
        integers = steps + self.zero_point
        return np.clip(integers, self.lowest, self.highest).astype(self.dtype)


def quantize_filters(
    kernel: np.ndarray, quantization: Quantization
) -> tuple[np.ndarray, np.ndarray]:
    """Clips filters to the range of the inputs, and rounds them.

    Args:
        kernel: array whose last axis is that of the filters.
        quantization: `Quantization` of the inputs.

    Returns:
        The integers, and the constants that the negated distances of each
        filter lack: float64, not positive.
    """
    kernel = np.asarray(kernel, "float64")
    clipped = np.clip(kernel, quantization.low, quantization.high)
    lost = np.abs(kernel - clipped)
    return quantization.quantize(clipped), -lost.sum(
        axis=tuple(range(kernel.ndim - 1))
    )


def share_clipped(kernel: np.ndarray, low: float, high: float) -> float:
    """The share of a kernel's elements that lie outside of a range."""
    return float(np.mean((kernel < low) | (kernel > high)))
