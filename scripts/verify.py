"""Checks that a model of yours trains the same on many devices as on one: `tfdist verify`.

    python scripts/verify.py --target=my_module:my_case
    python scripts/verify.py --target=my_module:my_case --device=cpu --workers=2
"""

from __future__ import annotations

import sys

from tfdist.cli.verify import main

if __name__ == "__main__":
    sys.exit(main())
