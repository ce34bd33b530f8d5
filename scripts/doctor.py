"""Says what would train here, what is known to break, and what to do: `tfdist doctor`.

    python scripts/doctor.py                      this host, and this process's environment
    python scripts/doctor.py --environ=dump.txt   a job's environment, written down elsewhere
    python scripts/doctor.py --tpu                which TPU is here, and which packages it needs
"""

from __future__ import annotations

import sys

from tfdist.cli.doctor import main

if __name__ == "__main__":
    sys.exit(main())
