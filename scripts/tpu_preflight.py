"""Says whether a model of yours will train on a TPU, without one: `tfdist preflight`.

    python scripts/tpu_preflight.py --target=my_module:my_model --topology=v5e:2x4 --batch_size=1024
    python scripts/tpu_preflight.py --target=my_module:my_model --fast
"""

from __future__ import annotations

import sys

from tfdist.cli.preflight import main

if __name__ == "__main__":
    sys.exit(main())
