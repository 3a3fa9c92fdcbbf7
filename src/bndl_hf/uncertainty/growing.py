"""A vector that grows: where streaming keeps one number for each image.

A list with a small tensor for every batch does the same and looks simpler, but those tensors lie between the large
temporary ones of each batch and keep the allocator from giving their memory back: a million images of a thousand
classes took over 2.4 GB of resident memory that way. One buffer of doubling capacity takes what it holds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Numbers a buffer has room for at first: half a megabyte in float64.
INITIAL_CAPACITY = 65_536


class GrowingVector:
    """Values in order of arrival, on the CPU; room for at most twice as many once there are 65,536.

    Args:
        dtype: of the values.
    """

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self._buffer = torch.empty(0, dtype=dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, values: Tensor) -> None:
        """Add `values` [B] at the end."""
        end = self._length + len(values)
        if end > len(self._buffer):
            grown = torch.empty(max(end, 2 * self._length, INITIAL_CAPACITY), dtype=self._buffer.dtype)
            grown[: self._length] = self.values
            self._buffer = grown
        self._buffer[self._length : end] = values
        self._length = end

    @property
    def values(self) -> Tensor:
        """All values so far, [B]: a view of the buffer, which later values do not change."""
        return self._buffer[: self._length]

    def __getstate__(self) -> dict[str, Any]:  # without the room that is not used yet
        return {"_buffer": self.values.clone(), "_length": self._length}
