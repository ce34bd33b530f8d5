"""Tells benign tumours from malignant ones by a table of measurements, given as dicts of features.

    python examples/tabular.py
    tfdist run --workers=2 --device=cpu examples/tabular.py

Data: 569 patients of the breast cancer data set of Wisconsin (Wolberg, Street, Mangasarian, CC BY
4.0), which ships with scikit-learn. Each of its 30 columns is an input with a name of its own.
"""

import keras
from absl import app, flags
from keras import layers
from sklearn.datasets import load_breast_cancer

_EPOCHS = flags.DEFINE_integer("epochs", 30, "Passes over the 456 patients to train on.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 50, "Patients a step, over all replicas.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the split, the weights and dropout.")
_BUCKETS = 8  # each measurement is also cut into as many parts


def load(seed):
    """Returns features by name and labels, to train on and to test on."""
    import numpy as np

    table = load_breast_cancer()
    order = np.random.default_rng(seed).permutation(len(table.target))
    names = [name.replace(" ", "_") for name in table.feature_names]
    parts = order[:456], order[456:]
    return [
        ({name: table.data[part, i].astype("float32") for i, name in enumerate(names)},
         table.target[part].astype("float32"))
        for part in parts
    ]


def build_model(features):
    """Returns a model that takes a dict: each feature as a number, and by its bucket."""
    inputs = {name: keras.Input((1,), name=name) for name in features}
    numbers, buckets = [], []
    for name, values in features.items():
        scale = layers.Normalization(axis=None, mean=values.mean(), variance=values.var())
        numbers.append(scale(inputs[name]))
        cut = layers.Discretization(num_bins=_BUCKETS)
        cut.adapt(values)
        buckets.append(layers.Embedding(_BUCKETS, 2)(cut(inputs[name])))
    embedded = layers.Flatten()(layers.Concatenate(axis=1)(buckets))
    x = layers.Concatenate()([*numbers, embedded])
    x = layers.Dense(32, activation="gelu", kernel_regularizer="l2")(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    (x, y), (x_test, y_test) = load(_SEED.value)
    model = build_model(x)
    model.compile(
        keras.optimizers.Adam(5e-3), "binary_crossentropy",
        metrics=["accuracy", keras.metrics.AUC(name="auc")],
    )
    weights = {0: float(y.mean()) / float(1 - y.mean()), 1: 1.0}  # benign ones are more
    model.fit(
        x, y, batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, class_weight=weights, verbose=2
    )
    found = model.evaluate(x_test, y_test, return_dict=True, verbose=0)
    print(f"test_accuracy={found['accuracy']:.4f} test_auc={found['auc']:.4f}")


if __name__ == "__main__":
    app.run(main)
