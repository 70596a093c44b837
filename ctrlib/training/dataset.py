"""Encoded rows in memory: the parts of a data set and the data set itself."""

from dataclasses import dataclass

import numpy as np

OOV = 0  # the code of every value that is rare or unseen in the training rows


@dataclass(frozen=True)
class Split:
    """Rows of one part: ``ids`` (N, F) int32, ``labels`` (N,) uint8, ``probability`` (N,) float64 where known."""

    ids: np.ndarray
    labels: np.ndarray
    probability: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """One draw of a data set. Codes of field f are 0 ... ``field_dims[f]`` - 1; ``fingerprint`` names the content."""

    name: str
    draw: int
    field_names: tuple[str, ...]
    field_dims: tuple[int, ...]
    train: Split
    valid: Split
    test: Split
    fingerprint: str

    def splits(self) -> dict[str, Split]:
        """The three parts by name, train first."""
        return {"train": self.train, "valid": self.valid, "test": self.test}
