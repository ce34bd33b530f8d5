"""Writes tfdist/datasets/digits.npz from scikit-learn's copy of the data, byte for byte the same.

The file is part of the package, so nobody has to run this; it says where the data came from.

    pip install scikit-learn
    python scripts/make_digits.py --output=tfdist/datasets/digits.npz
"""

from __future__ import annotations

import os

import numpy as np
from absl import app, flags

_SEED = 0  # of the one shuffle; another seed would be another split

_OUTPUT = flags.DEFINE_string(
    "output",
    os.path.join("tfdist", "datasets", "digits.npz"),
    "Path of the file to write.",
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, found {argv[1:]!r}.")
    from sklearn import datasets  # only this script needs scikit-learn

    digits = datasets.load_digits()
    order = np.random.Generator(np.random.PCG64(_SEED)).permutation(len(digits.target))
    np.savez_compressed(
        _OUTPUT.value,
        images=digits.images[order].astype(np.uint8),
        labels=digits.target[order].astype(np.uint8),
        source_index=order.astype(np.uint16),
    )
    print(f"{_OUTPUT.value}: {len(order)} images, {os.path.getsize(_OUTPUT.value)} bytes")


if __name__ == "__main__":
    app.run(main)
