"""How does a trained model predict for data that no memory holds, on any number of workers?

Synopsis:

    >>> import tempfile, keras, numpy as np, pyarrow.parquet, tfdist
    >>> summed = keras.layers.Dense(1, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input((2,)), summed])
    >>> folder = tempfile.mkdtemp()
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    >>> tfdist.inference.predict_to(model, x, folder, batch_size=2, verbose=0).rows
    3
    >>> pyarrow.parquet.read_table(folder).to_pydict()
    {'id': [0, 1, 2], 'prediction': [[3.0], [7.0], [11.0]]}

Read in this order; each file imports from those above it only:

1. rows.py: what can be predicted for, read a range of rows at a time.
2. parquet_rows.py: rows of Parquet files.
3. parts.py: which parts of the predictions are done, whatever happened to the workers.
4. writing.py: how predictions become a file.
5. predicting_to.py: how a worker predicts its parts.
6. on_engines.py: how Ray, Spark and Dask predict with a saved model.
7. generation.py: how a language model writes on for prompts.
8. fewer_bits.py: how a model becomes cheaper to predict with.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist.inference.fewer_bits import reduced
    from tfdist.inference.generation import generate
    from tfdist.inference.on_engines import RayPredictor, dask_map, spark_udf
    from tfdist.inference.parquet_rows import ParquetRows
    from tfdist.inference.parts import Predicted
    from tfdist.inference.predicting_to import predict_to
    from tfdist.inference.rows import ArrayRows, Bad, Block, ImageRows, RecordRows, split

__all__ = [
    "ArrayRows",
    "Bad",
    "Block",
    "ImageRows",
    "ParquetRows",
    "Predicted",
    "RayPredictor",
    "RecordRows",
    "dask_map",
    "generate",
    "predict_to",
    "reduced",
    "spark_udf",
    "split",
]

_MODULE_OF_NAME = {
    "ArrayRows": "tfdist.inference.rows",
    "Bad": "tfdist.inference.rows",
    "Block": "tfdist.inference.rows",
    "ImageRows": "tfdist.inference.rows",
    "ParquetRows": "tfdist.inference.parquet_rows",
    "Predicted": "tfdist.inference.parts",
    "RayPredictor": "tfdist.inference.on_engines",
    "RecordRows": "tfdist.inference.rows",
    "dask_map": "tfdist.inference.on_engines",
    "generate": "tfdist.inference.generation",
    "predict_to": "tfdist.inference.predicting_to",
    "reduced": "tfdist.inference.fewer_bits",
    "spark_udf": "tfdist.inference.on_engines",
    "split": "tfdist.inference.rows",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
