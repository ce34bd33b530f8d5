"""What is drawn in a private step, and from which secret?

The examples of a step and its noise come from one secret of 128 bits, which the chief takes from
the system's random source when `fit` begins and sends to the other workers. It is written nowhere:
whoever knew it could take the noise away again. A run that is resumed draws a new one, so that no
noise is used twice for other examples. What is drawn is a function of the secret and the number of
the step, the same on every worker.

The generator is NumPy's Philox 4x64 with a key of 128 bits, and its Gaussian numbers are doubles of
the ziggurat method, without a bound on their size. Philox passes all statistical tests that are
known, but is no cryptographic generator.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os

import numpy as np

from tfdist.communication.workers import Workers

_SAMPLE, _NOISE = 0, 1  # domains of the counter
_KEY_BYTES = 16
_PIECE = 2**17  # numbers that one thread draws at a time
_BLOCK = 2**14  # of these, how many at a time go through the core's cache


class Draws:
    """What the steps of a model's private training draw.

    One object serves all trainings of a model, so that a traced step can keep it.
    """

    def __init__(self) -> None:
        self._key: int | None = None
        self._last = -1
        #: Standard deviation of the noise of one number.
        self.scale = 0.0
        #: Steps since `begin` that noise was drawn for.
        self.steps = 0

    def begin(self, workers: Workers, *, seed: int | None, scale: float) -> None:
        """Takes a new secret; every worker has to call it.

        Args:
            workers: Who shares it.
            seed: For tests, what the secret is made of.
            scale: Standard deviation of the noise of one number.
        """
        own = os.urandom(_KEY_BYTES)
        if seed is not None:
            own = hashlib.sha256(f"tfdist {seed}".encode()).digest()[:_KEY_BYTES]
        self._key = int.from_bytes(workers.from_chief(own), "little")
        self.scale, self.steps, self._last = scale, 0, -1

    def end(self) -> None:
        """Forgets the secret."""
        self._key = None

    def sample(self, step: int, *, population: int, probability: float, cap: int) -> np.ndarray:
        """Draws the examples of a step.

        Args:
            step: Its number in the run.
            population: The number of all examples.
            probability: With which each is drawn, independently of the others.
            cap: Most examples; of more, a uniformly drawn part is taken.

        Returns:
            Their numbers, int64, in no order; none may be there.
        """
        generator = self._generator(_SAMPLE, step)
        # Independent draws are a binomial number of examples, any of which are equally likely; so
        # is a part of them that is drawn uniformly.
        count = min(int(generator.binomial(population, probability)), cap)
        return generator.choice(population, count, replace=False, shuffle=False).astype(np.int64)

    def noise(self, step: int, size: int) -> np.ndarray:
        """Draws the noise of a step: `size` doubles of the standard deviation `scale`."""
        return self.noised(step, np.zeros(size), 1)

    def noised(self, step: int, sums: np.ndarray, divisor: int) -> np.ndarray:
        """Adds the noise of a step to numbers, and divides: in double precision, piece by piece.

        Args:
            step: Its number in the run.
            sums: Of all weights, one after the other; `(size,)`.
            divisor: What they are divided by.

        Returns:
            `(sums + noise) / divisor`, rounded to the type of `sums` at the end.
        """
        step = int(step)
        if step > self._last:
            self._last, self.steps = step, self.steps + 1
        found = np.empty_like(sums)

        def fill(begin: int) -> None:
            generator = self._generator(_NOISE, step, begin // _PIECE)
            end, block = min(begin + _PIECE, len(sums)), np.empty(_BLOCK)
            for start in range(begin, end, _BLOCK):
                part = block[: min(_BLOCK, end - start)]
                if self.scale:
                    generator.standard_normal(out=part)
                    part *= self.scale
                else:
                    part[:] = 0
                part += sums[start : start + len(part)]
                part /= divisor
                found[start : start + len(part)] = part

        begins = range(0, len(sums), _PIECE)
        if len(begins) <= 1:
            for begin in begins:
                fill(begin)
        else:  # NumPy lets other threads run while it draws
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
                list(threads.map(fill, begins))
        return found

    def _generator(self, domain: int, step: int, piece: int = 0) -> np.random.Generator:
        if self._key is None:
            raise RuntimeError(
                "A private step was run outside of the fit that has its secret. Train with "
                "tfdist.fit(..., privacy=...)."
            )
        counter = [0, piece, int(step), domain]  # the first word counts the numbers of a piece
        return np.random.Generator(np.random.Philox(key=self._key, counter=counter))
