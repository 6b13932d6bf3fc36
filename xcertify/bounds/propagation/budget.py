"""What is worked on at once: how many samples and rows fit a budget of memory.

Three things are held at a time, and each gets a share of the budget:

- what is known of every tensor of the network, intervals and relaxations, for some samples;
- the coefficients of one backward pass, for some rows of these samples;
- what goes into a compiled function and comes out of it, for the samples and rows of one call.

What a caller gives and gets is his own and does not count: inputs, rows, and the arrays that are
returned, of which there is one copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras import ops

from xcertify.bounds import backend
from xcertify.bounds.graph.graph import Graph

_NETWORK, _PASS, _CALL = 0.4, 0.3, 0.3  # shares of the budget
_TENSORS_HELD = 8  # tensors of the size of the coefficients that one step back keeps alive
_ITEM_SIZES = {"float32": 4, "float64": 8}


def default_bytes() -> int:
    """Bytes of a budget that nobody has chosen: 1 GiB, on a GPU a quarter of its memory.

    Of that memory, what TensorFlow may take; nothing is allocated here. A quarter leaves room for
    the user's model, and for what kernels take beside the tensors that are counted.
    """
    memory = backend.device_memory()
    return 2**30 if memory is None else memory // 4


@dataclass(frozen=True)
class Budget:
    """A number of bytes, and what fits it.

    Attributes
    ----------
    nb_bytes
        The whole budget.
    dtype
        Working type of the bounds.
    nb_versions
        How often intervals and relaxations are held: 2 where a second version is optimised.
    """

    nb_bytes: int
    dtype: str
    nb_versions: int = 1

    @property
    def item_size(self) -> int:
        """Bytes of a number of the working type."""
        return _ITEM_SIZES[self.dtype]

    def nb_samples(self, graph: Graph) -> int:
        """Samples whose intervals and relaxations fit: some float64 and eight working tensors."""
        return max(1, int(_NETWORK * self.nb_bytes) // self.bytes_of(graph)[0])

    def bytes_of(self, graph: Graph) -> tuple[int, int]:
        """What a sample's intervals and relaxations take, and the coefficients of one row of it."""
        nb_entries = sum(math.prod(node.shape) for node in graph.nodes)
        widest = max(math.prod(node.shape) for node in graph.nodes)
        return nb_entries * self._per_entry, 2 * _TENSORS_HELD * widest * self.item_size

    @property
    def _per_entry(self) -> int:
        """Bytes for each entry of a tensor of one sample, in intervals and relaxations."""
        return (32 + 8 * self.item_size) * self.nb_versions

    def nb_rows(self, nb_entries: int, nb_samples: Any) -> Any:
        """Rows of one backward pass whose coefficients fit, a tensor.

        `nb_entries` are held for each row, and as many for its negative beside it.
        """
        per_row = 2 * _TENSORS_HELD * nb_entries * self.item_size
        fitting = min(_PASS * self.nb_bytes / per_row, 2**30)
        return ops.maximum(ops.cast(fitting, "int32") // nb_samples, 1)

    def nb_pairs(self, per_pair: int) -> int:
        """Pairs of a sample and a row of which so many bytes each go in or out of a call."""
        return max(1, int(_CALL * self.nb_bytes) // max(per_pair, 1))


def batches(
    nb_samples: int, nb_rows: int, samples_at_once: int, pairs_at_once: int
) -> Iterator[tuple[slice, slice]]:
    """Slices of samples and of rows: all rows of some samples, or some rows of one sample.

    Parameters
    ----------
    nb_samples, nb_rows
        How many there are.
    samples_at_once
        Most samples of a part.
    pairs_at_once
        Most pairs of a sample and a row of a part.
    """
    samples_at_once = max(1, min(samples_at_once, pairs_at_once // max(nb_rows, 1)))
    rows_at_once = max(1, min(nb_rows, pairs_at_once))
    for sample in range(0, nb_samples, samples_at_once):
        for row in range(0, nb_rows, rows_at_once):
            yield (
                slice(sample, min(sample + samples_at_once, nb_samples)),
                slice(row, min(row + rows_at_once, nb_rows)),
            )
