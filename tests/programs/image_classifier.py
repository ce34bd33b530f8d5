"""Images: augmentation, synchronized BatchNormalization, a MirroredStrategy of its own."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.config.set_floatx("float64")
keras.utils.set_random_seed(14)
rng = np.random.default_rng(0)
images, labels = rng.uniform(0, 255, size=(27, 8, 8, 3)), rng.integers(4, size=27)
train_ds = tf.data.Dataset.from_tensor_slices((images[:20], labels[:20])).batch(8)
train_ds = train_ds.map(lambda x, y: (x, tf.one_hot(y, 4, dtype="float64")))
val_ds = tf.data.Dataset.from_tensor_slices((images[20:], labels[20:])).batch(3)
val_ds = val_ds.map(lambda x, y: (x, tf.one_hot(y, 4, dtype="float64")))

strategy = tf.distribute.MirroredStrategy()
print(f"Number of devices: {strategy.num_replicas_in_sync}")


def make_model(input_shape, num_classes):
    inputs = keras.Input(shape=input_shape)
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.Rescaling(1.0 / 255)(x)
    x = layers.GaussianNoise(0.1)(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    x = layers.BatchNormalization(synchronized=True, momentum=0.9)(x)
    x = layers.Activation("relu")(x)
    previous_block_activation = x
    x = layers.SeparableConv2D(6, 3, padding="same")(x)
    x = layers.BatchNormalization(synchronized=True)(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    residual = layers.Conv2D(6, 1, strides=2, padding="same")(previous_block_activation)
    x = layers.GlobalAveragePooling2D()(layers.add([x, residual]))
    x = layers.Dropout(0.25)(x)
    return keras.Model(inputs, layers.Dense(num_classes, activation="softmax")(x))


with strategy.scope():
    model = make_model(input_shape=(8, 8, 3), num_classes=4)
    model.compile(
        optimizer=keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(0.05, 6), momentum=0.9, nesterov=True
        ),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        metrics=[keras.metrics.CategoricalAccuracy(name="acc"), "mse"],
    )
history = model.fit(train_ds, epochs=2, validation_data=val_ds, verbose=0)
loss, *accuracies = model.evaluate(val_ds, verbose=0)
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *model.get_weights(), predicted=model.predict(images[20:], batch_size=4, verbose=0),
    loss_alone=loss, accuracies=accuracies, **history.history,
)  # fmt: skip
