"""Decoded images in memory-mapped files, and those of a split as one array-like thing."""

from pathlib import Path
from typing import Any

import numpy as np


class Segment:
    """Decoded images in one memory-mapped file; raises ValueError if the file is cut short."""

    def __init__(self, folder: Path):
        with np.load(folder / "index.npz", allow_pickle=False) as index:
            shapes = index["shapes"].astype(np.int64)
        ends = np.cumsum(shapes.prod(axis=1) * 3)
        if (folder / "pixels.bin").stat().st_size != (ends[-1] if len(ends) else 0):
            raise ValueError(f"{folder}: truncated")
        pixels = np.memmap(folder / "pixels.bin", np.uint8, "r")
        self.uniform = bool((shapes == shapes[0]).all())
        self.shapes, self._ends, self._pixels = shapes, ends, pixels
        self.rows = pixels.reshape(len(shapes), *shapes[0], 3) if self.uniform else None

    def __getitem__(self, row: int) -> np.ndarray:
        """uint8 height x width x 3, a view into the file."""
        if self.rows is not None:
            return self.rows[row]
        height, width = self.shapes[row]
        start = self._ends[row] - height * width * 3
        return self._pixels[start : self._ends[row]].reshape(height, width, 3)

    @staticmethod
    def digests(folder: Path) -> np.ndarray:
        """The SHA-256 of the image files behind the rows: uint8, N x 32."""
        with np.load(folder / "index.npz", allow_pickle=False) as index:
            return index["digests"]


class Images:
    """Decoded images in the order of a list; indexed like an array, by number, slice or numbers.

    shape: (N, height, width, 3); height and width are None where they differ (view "own"), and
    several images are then a list of arrays instead of one array.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, segments: list[Segment], which: np.ndarray, row: np.ndarray):
        self._segments, self._which, self._row = segments, which, row
        shapes = {tuple(segment.shapes[0]) for segment in segments}
        self.uniform = len(shapes) == 1 and all(segment.uniform for segment in segments)
        side = tuple(int(n) for n in shapes.pop()) if self.uniform else (None, None)
        self.shape = (len(row), *side, 3)

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, index: Any) -> Any:
        which, row = self._which[index], self._row[index]
        if np.ndim(row) == 0:
            return self._segments[which][row]
        if not self.uniform:
            return [self._segments[w][r] for w, r in zip(which, row, strict=True)]
        if len(row) and (which == which[0]).all() and (np.diff(row) == 1).all():
            return self._segments[which[0]].rows[row[0] : row[-1] + 1]
        out = np.empty((len(row), *self.shape[1:]), np.uint8)
        for number in np.unique(which):
            chosen = which == number
            out[chosen] = self._segments[number].rows[row[chosen]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if not self.uniform:
            raise ValueError("the images differ in size and make no array")
        whole = self[:]
        return np.array(whole, dtype=dtype) if copy else np.asarray(whole, dtype=dtype)
