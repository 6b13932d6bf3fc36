"""From stored values to those that the model takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scale:
    """``value * scale + offset``, rounded once: the nearest float32.

    With the scale 1/255 and bytes that is the float32 of ``byte / 255``.
    """

    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, scale: float | None, offset: float | None, *, default: float) -> Scale:
        """With a default for the scale, and 0 for the offset.

        Raises
        ------
        ValueError
            For what is no finite number, and a scale of 0.
        """
        chosen = cls(default if scale is None else scale, 0.0 if offset is None else offset)
        for name, value in vars(chosen).items():
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise ValueError(f"{name} must be a number. Received: {value!r}")
            if not math.isfinite(value) or (name == "scale" and value == 0):
                raise ValueError(
                    f"{name} must be finite{' and not 0' * (name == 'scale')}. Received: {value!r}"
                )
        return cls(float(chosen.scale), float(chosen.offset))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """A new float32 array; what float32 cannot hold becomes infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self == Scale():
                return np.array(values, dtype=np.float32)
            return (values.astype(np.float64) * self.scale + self.offset).astype(np.float32)

    def options(self) -> dict[str, float]:
        """For `Source.describe`."""
        return {"scale": self.scale, "offset": self.offset}
