"""Translation: teacher forcing, padded targets weighted zero, decoding with states."""

import os
import sys

import keras
import numpy as np
from keras import layers

keras.config.set_floatx("float64")
keras.utils.set_random_seed(9)
rng = np.random.default_rng(0)
num_tokens, latent_dim, longest = 7, 6, 6
encoder_ids = np.zeros((19, 5), "int32")
decoder_ids = np.zeros((19, longest), "int32")
for source, target in zip(encoder_ids, decoder_ids):
    length = rng.integers(2, 6)
    source[:length] = rng.integers(3, num_tokens, size=length)
    target[: length + 1] = [1, *source[:length][::-1]]  # 1 begins, 2 ends, 0 is nothing
targets = np.concatenate([decoder_ids[:, 1:], np.zeros((19, 1), "int32")], axis=1)
targets[np.arange(19), (decoder_ids != 0).sum(axis=1) - 1] = 2
weights = (decoder_ids != 0).astype("float64")

encoder_inputs = keras.Input(shape=(None,), dtype="int32")
encoder_embedding = layers.Embedding(num_tokens, 4, mask_zero=True)(encoder_inputs)
encoder = layers.LSTM(latent_dim, return_state=True)
_, state_h, state_c = encoder(encoder_embedding)
decoder_inputs = keras.Input(shape=(None,), dtype="int32")
decoder_embed = layers.Embedding(num_tokens, 4)
decoder_lstm = layers.LSTM(latent_dim, return_sequences=True, return_state=True, dropout=0.2)
decoder_dense = layers.Dense(num_tokens, activation="softmax")
sequence, _, _ = decoder_lstm(decoder_embed(decoder_inputs), initial_state=[state_h, state_c])
model = keras.Model([encoder_inputs, decoder_inputs], decoder_dense(sequence))
model.compile(
    optimizer=keras.optimizers.RMSprop(0.01, clipnorm=1.0),
    loss="sparse_categorical_crossentropy",
    weighted_metrics=["accuracy"],
)
history = model.fit(
    [encoder_ids, decoder_ids], targets, sample_weight=weights, batch_size=4, epochs=2,
    validation_split=0.3, shuffle=False, verbose=0,
)  # fmt: skip

encoder_model = keras.Model(encoder_inputs, [state_h, state_c])
state_inputs = [keras.Input(shape=(latent_dim,)), keras.Input(shape=(latent_dim,))]
step_inputs = keras.Input(shape=(1,), dtype="int32")
step, *step_states = decoder_lstm(decoder_embed(step_inputs), initial_state=state_inputs)
decoder_model = keras.Model([step_inputs, *state_inputs], [decoder_dense(step), *step_states])


def decode_sequence(input_seq):
    states_value = encoder_model.predict(input_seq, verbose=0)
    token, decoded = np.ones((1, 1), "int32"), []
    while len(decoded) < 4:
        output_tokens, *states_value = decoder_model.predict([token, *states_value], verbose=0)
        token = np.array([[np.argmax(output_tokens[0, -1])]], "int32")
        decoded.append(int(token[0, 0]))
        if decoded[-1] == 2:
            break
    return decoded


np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *model.get_weights(), decoded=decode_sequence(encoder_ids[:1]), **history.history,
)
