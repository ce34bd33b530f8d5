"""Structured data: preprocessing layers that adapt, class weights, early stopping, `main()`."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def dataframe_to_dataset(frame, labels):
    ds = tf.data.Dataset.from_tensor_slices((dict(frame), labels))
    return ds.shuffle(buffer_size=len(labels), seed=11)


def encode_numerical_feature(feature, name, dataset):
    normalizer = layers.Normalization()
    feature_ds = dataset.map(lambda x, y: tf.expand_dims(x[name], -1))
    normalizer.adapt(feature_ds.batch(8))
    return normalizer(feature)


def encode_categorical_feature(feature, name, dataset):
    lookup = layers.StringLookup(output_mode="multi_hot")
    lookup.adapt(dataset.map(lambda x, y: tf.expand_dims(x[name], -1)).batch(8))
    return lookup(feature)


def main():
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(13)
    rng = np.random.default_rng(0)
    frame = {
        "age": rng.integers(20, 80, size=45).astype("float64"),
        "chol": rng.normal(240.0, 30.0, size=45),
        "thal": rng.choice(["fixed", "normal", "reversible"], size=45),
    }
    labels = rng.integers(2, size=45)
    train_ds = dataframe_to_dataset({k: v[:33] for k, v in frame.items()}, labels[:33])
    val_ds = dataframe_to_dataset({k: v[33:] for k, v in frame.items()}, labels[33:])

    age = keras.Input(shape=(1,), name="age", dtype="float64")
    chol = keras.Input(shape=(1,), name="chol", dtype="float64")
    thal = keras.Input(shape=(1,), name="thal", dtype="string")
    all_features = layers.concatenate(
        [
            encode_numerical_feature(age, "age", train_ds),
            encode_numerical_feature(chol, "chol", train_ds),
            encode_categorical_feature(thal, "thal", train_ds),
        ]
    )
    x = layers.Dense(8, activation="relu", kernel_regularizer="l2")(all_features)
    x = layers.Dropout(0.5)(x)
    model = keras.Model([age, chol, thal], layers.Dense(1, activation="sigmoid")(x))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC()])
    history = model.fit(
        train_ds.batch(16, drop_remainder=True), epochs=4, validation_data=val_ds.batch(5),
        class_weight={0: 1.0, 1: 3.0}, verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping(
                monitor="val_loss", min_delta=10.0, patience=1, restore_best_weights=True
            )
        ],
    )  # fmt: skip
    sample = {"age": [60.0], "chol": [233.0], "thal": ["fixed"]}
    input_dict = {name: tf.convert_to_tensor(value) for name, value in sample.items()}
    predictions = model.predict(input_dict, verbose=0)
    np.savez(
        sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
        *model.get_weights(), predictions=predictions, **history.history,
    )


if __name__ == "__main__":
    main()
