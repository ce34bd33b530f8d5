"""An autoencoder with a Loss of one's own, checkpoints, and a saved model that trains on."""

import os
import sys

import keras
import numpy as np
from keras import layers, ops

keras.config.set_floatx("float64")
keras.utils.set_random_seed(12)
rng = np.random.default_rng(0)
clean = rng.uniform(size=(22, 8, 8, 1))
noisy = np.clip(clean + 0.4 * rng.normal(size=clean.shape), 0.0, 1.0)


@keras.saving.register_keras_serializable()
class GradientDifferenceLoss(keras.losses.Loss):
    """Compares images, and how they change from one pixel to the next."""

    def __init__(self, weight=0.5, name="gradient_difference", **kwargs):
        super().__init__(name=name, **kwargs)
        self.weight = weight

    def call(self, y_true, y_pred):
        error = ops.mean(ops.square(y_true - y_pred), axis=(1, 2, 3))
        changes = ops.abs(ops.diff(y_true, axis=1)) - ops.abs(ops.diff(y_pred, axis=1))
        return error + self.weight * ops.mean(ops.abs(changes), axis=(1, 2, 3))

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}


inputs = layers.Input(shape=(8, 8, 1))
x = layers.Conv2D(4, (3, 3), activation="relu", padding="same")(inputs)
x = layers.MaxPooling2D((2, 2), padding="same")(x)
x = layers.SpatialDropout2D(0.2)(x)
x = layers.Conv2DTranspose(4, (3, 3), strides=2, activation="relu", padding="same")(x)
x = layers.Conv2D(1, (3, 3), activation="sigmoid", padding="same")(x)
autoencoder = keras.Model(inputs, x)
autoencoder.compile(optimizer="adam", loss=GradientDifferenceLoss(), metrics=["mae"])
folder = sys.argv[1] + " files"
os.makedirs(folder, exist_ok=True)
history = autoencoder.fit(
    x=noisy[:17], y=clean[:17], epochs=2, batch_size=8, shuffle=False, verbose=0,
    validation_data=(noisy[17:], clean[17:]),
    callbacks=[
        keras.callbacks.ModelCheckpoint(
            os.path.join(folder, "best.weights.h5"), save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.ReduceLROnPlateau(monitor="val_mae", min_delta=1.0, patience=1),
        keras.callbacks.CSVLogger(os.path.join(folder, "log.csv")),
    ],
)  # fmt: skip
autoencoder.save(os.path.join(folder, "model.keras"))

restored = keras.models.load_model(os.path.join(folder, "model.keras"))
more = restored.fit(noisy, clean, batch_size=8, shuffle=False, verbose=0)
restored.load_weights(os.path.join(folder, "best.weights.h5"))
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *autoencoder.get_weights(), *restored.get_weights(), more=more.history["loss"],
    rate=float(autoencoder.optimizer.learning_rate),
    predicted=restored.predict(noisy, batch_size=6, verbose=0), **history.history,
)  # fmt: skip
