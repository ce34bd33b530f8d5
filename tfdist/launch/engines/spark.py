"""How does engine "spark" place workers?  By the tasks of a barrier stage, with an agent in each.

The application is the active one of this process (as under spark-submit), else a new one on
this machine, which ends with the attempt. The tasks of a barrier stage start all together or not at
all. Spark itself runs no part of the training: the worker is a process of its own, beside the
Python that runs the task.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import uuid
from typing import Any

from tfdist.cluster.ports import own_address
from tfdist.launch.engine import import_package
from tfdist.launch.engines import agent
from tfdist.launch.engines.remote import RemoteGang
from tfdist.launch.job import Job, count_cores, inherited_environ


def place(job: Job, *, is_restart: bool) -> RemoteGang:
    """Runs a barrier stage with a task for each worker."""
    pyspark = import_package("pyspark", engine="spark", extra="spark")
    context, is_ours = pyspark.SparkContext._active_spark_context, False
    if context is None:
        context, is_ours = _start(pyspark, job), True
    try:
        return RemoteGang(
            job,
            interface=own_address(context.getConf().get("spark.driver.host", "")),
            seat=lambda address, secret: _Stage(context, job, address, secret, is_ours=is_ours),
            is_restart=is_restart,
        )
    except BaseException:
        if is_ours:
            _stop(context)
        raise


def _start(pyspark: Any, job: Job) -> Any:
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise RuntimeError(
            "Spark needs a Java runtime, and there is neither JAVA_HOME nor java on PATH; on Debian"
            " and Ubuntu, apt-get install default-jre-headless brings one."
        )
    conf = pyspark.SparkConf().setAppName("tfdist")
    is_here = not conf.contains("spark.master")
    if is_here:
        conf.setMaster(f"local[{max(count_cores(), job.workers)}]")
        conf.set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
        conf.set("spark.ui.enabled", "false").set("spark.ui.showConsoleProgress", "false")
        conf.set("spark.log.level", "ERROR")
    conf.set("spark.executorEnv.PYTHONPATH", inherited_environ()["PYTHONPATH"])
    wanted = {"PYSPARK_PYTHON": sys.executable}  # else it is the first python3 on PATH
    if is_here:
        wanted["SPARK_LOCAL_IP"] = "127.0.0.1"
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        return pyspark.SparkContext(conf=conf)
    finally:
        for name in added:
            del os.environ[name]


def _stop(context: Any) -> None:
    """Ends our own application, and its Java process, which would outlive the attempt."""
    gateway = context._gateway
    context.stop()
    cls = type(context)
    if cls._active_spark_context is not None:
        return
    process = getattr(gateway, "proc", None)
    with contextlib.suppress(Exception):
        gateway.shutdown()
    cls._gateway = cls._jvm = None
    if process is not None:
        if process.stdin:
            process.stdin.close()  # Spark's launcher waits for this end
        try:
            process.wait(10)
        except Exception:
            process.kill()
            process.wait(10)


class _Stage:
    """A barrier stage, which runs in a thread."""

    def __init__(self, context: Any, job: Job, address: str, secret: str, *, is_ours: bool) -> None:
        self._context, self._is_ours = context, is_ours
        self._group = f"tfdist-{uuid.uuid4().hex[:8]}"
        self._error = ""
        self._thread = threading.Thread(
            target=self._run, args=(job.workers, address, secret), name="tfdist-spark", daemon=True
        )
        self._thread.start()

    def _run(self, workers: int, address: str, secret: str) -> None:
        def serve(partition: Any) -> Any:
            from pyspark import BarrierTaskContext

            agent.serve(address, secret=secret, rank=BarrierTaskContext.get().partitionId())
            return partition

        try:
            self._context.setJobGroup(self._group, "tfdist", interruptOnCancel=True)
            self._context.parallelize(range(workers), workers).barrier().mapPartitions(
                serve
            ).collect()
        except Exception as error:
            self._error = f"the barrier stage has failed: {error}"

    def problem(self) -> str:
        """What Spark says."""
        return self._error

    def is_queued(self) -> bool:
        """Never: Spark tries a barrier stage that has no room for some time, and gives up."""
        return False

    def end(self) -> None:
        """Ends the stage, and the application if we started it."""
        self._thread.join(5)
        with contextlib.suppress(Exception):  # Spark may have gone already
            if self._thread.is_alive():
                self._context.cancelJobGroup(self._group)
                self._thread.join(10)
        if self._is_ours:
            _stop(self._context)
