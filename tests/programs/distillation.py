"""Knowledge distillation: a trained teacher outside, and a student with its own `compute_loss`."""

import os
import sys

import keras
import numpy as np
from keras import layers, ops

keras.config.set_floatx("float64")
keras.utils.set_random_seed(7)
rng = np.random.default_rng(0)
x_train, x_test = rng.normal(size=(21, 8, 8, 1)), rng.normal(size=(7, 8, 8, 1))
y_train, y_test = rng.integers(3, size=21), rng.integers(3, size=7)


def classifier(filters, name):
    return keras.Sequential(
        [
            keras.Input(shape=(8, 8, 1)),
            layers.Conv2D(filters, (3, 3), strides=(2, 2), padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.MaxPooling2D(pool_size=(2, 2), strides=(1, 1), padding="same"),
            layers.Flatten(),
            layers.Dense(3),
        ],
        name=name,
    )


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.teacher, self.student = teacher, student

    def compile(
        self, optimizer, metrics, student_loss_fn, distillation_loss_fn, alpha=0.1, temperature=3
    ):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss_fn, self.distillation_loss_fn = student_loss_fn, distillation_loss_fn
        self.alpha, self.temperature = alpha, temperature

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False):
        teacher_pred = self.teacher(x, training=False)
        student_loss = self.student_loss_fn(y, y_pred)
        distillation_loss = self.distillation_loss_fn(
            ops.softmax(teacher_pred / self.temperature, axis=1),
            ops.softmax(y_pred / self.temperature, axis=1),
        ) * (self.temperature**2)
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss

    def call(self, x):
        return self.student(x)


teacher, student = classifier(6, "teacher"), classifier(3, "student")
student_scratch = keras.models.clone_model(student)
student_scratch.set_weights(student.get_weights())
teacher.compile(
    optimizer=keras.optimizers.Adam(),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=[keras.metrics.SparseCategoricalAccuracy()],
)
teacher.fit(x_train, y_train, epochs=1, batch_size=8, shuffle=False, verbose=0)
teacher_scores = teacher.evaluate(x_test, y_test, batch_size=4, verbose=0)
distiller = Distiller(student=student, teacher=teacher)
distiller.compile(
    optimizer=keras.optimizers.Adam(),
    metrics=[keras.metrics.SparseCategoricalAccuracy()],
    student_loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    distillation_loss_fn=keras.losses.KLDivergence(),
    alpha=0.1,
    temperature=10,
)
history = distiller.fit(x_train, y_train, epochs=2, batch_size=8, shuffle=False, verbose=0)
distilled_scores = distiller.evaluate(x_test, y_test, batch_size=4, verbose=0)
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *distiller.get_weights(), *student_scratch.get_weights(),
    scores=teacher_scores + distilled_scores, **history.history,
)
