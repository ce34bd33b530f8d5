"""Text classification with a transformer of one's own: positions, masks, MultiHeadAttention."""

import os
import sys

import keras
import numpy as np
from keras import layers, ops

keras.config.set_floatx("float64")
keras.utils.set_random_seed(8)
rng = np.random.default_rng(0)
vocab_size, maxlen, embed_dim = 20, 7, 8
texts = [rng.integers(1, vocab_size, size=rng.integers(2, maxlen + 1)).tolist() for _ in range(25)]
x = keras.utils.pad_sequences(texts, maxlen=maxlen, padding="post")
y = rng.integers(2, size=25)
x_train, y_train, x_val, y_val = x[:18], y[:18], x[18:], y[18:]


class TransformerBlock(layers.Layer):
    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1):
        super().__init__()
        self.supports_masking = True
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential([layers.Dense(ff_dim, "relu"), layers.Dense(embed_dim)])
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1, self.dropout2 = layers.Dropout(rate), layers.Dropout(rate)

    def call(self, inputs, training=None, mask=None):
        attention_mask = None if mask is None else mask[:, None, :]
        attn_output = self.att(inputs, inputs, attention_mask=attention_mask)
        out1 = self.layernorm1(inputs + self.dropout1(attn_output, training=training))
        ffn_output = self.dropout2(self.ffn(out1), training=training)
        return self.layernorm2(out1 + ffn_output)


class TokenAndPositionEmbedding(layers.Layer):
    def __init__(self, maxlen, vocab_size, embed_dim):
        super().__init__()
        self.token_emb = layers.Embedding(vocab_size, embed_dim, mask_zero=True)
        self.pos_emb = layers.Embedding(input_dim=maxlen, output_dim=embed_dim)

    def call(self, x):
        positions = ops.arange(start=0, stop=ops.shape(x)[-1], step=1)
        return self.token_emb(x) + self.pos_emb(positions)

    def compute_mask(self, inputs, mask=None):
        return self.token_emb.compute_mask(inputs)


inputs = layers.Input(shape=(maxlen,), dtype="int32")
hidden = TokenAndPositionEmbedding(maxlen, vocab_size, embed_dim)(inputs)
hidden = TransformerBlock(embed_dim, num_heads=2, ff_dim=8)(hidden)
hidden = layers.GlobalAveragePooling1D()(hidden)
hidden = layers.Dense(6, activation="relu")(layers.Dropout(0.1)(hidden))
outputs = layers.Dense(2, activation="softmax")(hidden)
model = keras.Model(inputs=inputs, outputs=outputs)
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(
    x_train, y_train, batch_size=8, epochs=2, validation_data=(x_val, y_val), shuffle=False,
    class_weight={0: 1.0, 1: 2.5}, verbose=0,
)  # fmt: skip
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *model.get_weights(), predicted=model.predict(x_val, verbose=0), **history.history,
)
