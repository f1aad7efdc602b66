"""A sheet of small pictures."""

import math

import numpy as np


def grid(pictures: np.ndarray) -> np.ndarray:
    """N H W 3 side by side, about as many columns as rows: H' W' 3."""
    columns = math.ceil(math.sqrt(len(pictures)))
    spare = -len(pictures) % columns
    padded = np.concatenate([pictures, np.full((spare, *pictures.shape[1:]), 255, np.uint8)])
    rows, (height, width) = len(padded) // columns, pictures.shape[1:3]
    return padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
