"""What the workers do in the tests of the engines, and a driver that runs it on one engine.

    python tests/support/engine_jobs.py ENGINE FOLDER
    python tests/support/engine_jobs.py train

The driver runs several jobs one after the other, and prints what came of each as JSON. With
"train" it is no driver, but one worker of a job that somebody else has started.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import sys
import time

import tfdist


def train(checkpoint_dir=None, kill_in_epoch=None):
    """Trains on the digits for three epochs; returns a digest of the final weights."""
    import keras
    import numpy as np

    strategy = tfdist.get_strategy("cpu")
    keras.utils.set_random_seed(1)
    (x, y), _ = tfdist.datasets.load_digits()
    with strategy.scope():
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((8, 8)),
                layers.Flatten(),
                layers.Rescaling(1 / 16),
                layers.Dense(32, activation="tanh"),
                layers.Dropout(0.2),
                layers.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])

    def die(epoch, logs=None):
        is_first = os.environ.get("TFDIST_RESTART_COUNT") == "0"
        if epoch == kill_in_epoch and is_first and tfdist.detect_cluster().rank == 1:
            time.sleep(1.0)  # what was saved at the end of the last epoch may still be written
            os.kill(os.getpid(), signal.SIGKILL)

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=die)
    resuming = {"checkpoint_dir": checkpoint_dir} if checkpoint_dir else {}
    tfdist.fit(model, x, y, batch_size=60, epochs=3, verbose=2, callbacks=[callback], **resuming)
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest(), strategy.num_replicas_in_sync


def place(word):
    """Returns this worker's place, and what it was given."""
    found = tfdist.detect_cluster()
    print("hello from", found.rank, flush=True)
    return [found.rank, found.size, found.local_rank, found.local_size, len(found.addresses), word]


def fail(how):
    """Lets worker 1 end badly, while worker 0 would work on for a minute."""
    if tfdist.detect_cluster().rank == 1:
        if how == "raises":
            raise KeyError("the cause")
        if how == "exits":
            sys.exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@contextlib.contextmanager
def cluster_of(engine):
    """Starts what the engine's jobs share, as a user's own program would have."""
    if engine == "ray":
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # stay on loopback
        # Else Ray writes a token into the user's home folder; it looks when it is imported.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        import ray

        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
        yield
        ray.shutdown()
    elif engine == "dask":
        from distributed import Client, LocalCluster

        settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(host="127.0.0.1", **settings) as cluster, Client(cluster):
            yield
    elif engine == "spark":
        from pyspark import SparkConf, SparkContext

        os.environ.update(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
        conf = SparkConf().setMaster("local[2]").set("spark.ui.enabled", "false")
        with SparkContext(conf=conf):
            yield
    else:
        yield


def run_all(engine, folder):
    """Runs the jobs; returns what came of each by its name."""
    found = {}

    def attempt(name, fn, *args, **kwargs):
        began = time.monotonic()
        try:
            value = tfdist.launch.run(
                fn, workers=2, engine=engine, args=args, threads=1, timeout_secs=100, **kwargs
            )
            found[name] = {"value": value}
        except RuntimeError as error:
            found[name] = {"error": str(error)}
        found[name]["secs"] = round(time.monotonic() - began, 2)

    attempt("place", place, "x", env={"MINE": "1"})
    for how in ("raises", "exits", "is killed"):
        attempt(how, fail, how)
    if engine == "local":
        attempt("train", train)
    # Killed, and begun anew: what other engines do otherwise in training shows here as well.
    attempt("resume", train, os.path.join(folder, engine), 2, max_restarts=1)
    return found


if __name__ == "__main__":
    if sys.argv[1] == "train":
        print("trained", *train(), flush=True)
        sys.exit()
    with cluster_of(sys.argv[1]):
        outcome = run_all(*sys.argv[1:])
    print("\noutcome " + json.dumps(outcome), flush=True)
