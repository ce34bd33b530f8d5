"""Writes the description of a job for a cluster that starts the workers: `tfdist render`.

    python scripts/render.py --target=slurm --workers=4 train.py --epochs=5 | sbatch
"""

from __future__ import annotations

import sys

from tfdist.cli.render import main

if __name__ == "__main__":
    sys.exit(main())
