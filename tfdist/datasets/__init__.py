"""Which real data ships with the package?

Synopsis:

    >>> from tfdist import datasets
    >>> (x_train, y_train), (x_test, y_test) = datasets.load_digits()
    >>> x_train.shape, y_train.shape, x_test.shape
    ((1437, 8, 8), (1437,), (360, 8, 8))

Nothing is downloaded: the file lies beside this module, and is read at each call.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["load_digits"]

_NUM_TRAIN = 1437  # four fifths of the 1,797 images


def load_digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns 1,797 handwritten digits, split into train and test.

    The first 1,437 images of one fixed random order are for training and the last 360 for testing,
    always the same ones. The 13 people who wrote them are on both sides of the split.

    The data is "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (UCI
    Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49), in the part that
    scikit-learn ships, licensed under CC BY 4.0; see NOTICE.

    Returns:
      `((x_train, y_train), (x_test, y_test))`, new arrays at each call. The images `x` have shape
      `(n, 8, 8)` and dtype uint8, with values from 0 (white) to 16 (black): divide by 16 for a
      model. The labels `y` have shape `(n,)` and dtype int64, with values from 0 to 9.

    >>> (x_train, y_train), _ = load_digits()
    >>> int(x_train.max()), int(y_train[0])
    (16, 6)
    """
    import numpy as np  # here, so that importing the package stays cheap

    with (
        resources.files(__name__).joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as data,
    ):
        x, y = data["images"], data["labels"].astype(np.int64)
    return (x[:_NUM_TRAIN], y[:_NUM_TRAIN]), (x[_NUM_TRAIN:], y[_NUM_TRAIN:])
