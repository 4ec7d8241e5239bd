"""One thread a test process: the processes share the cores already, and threads that spin take them from each other."""

from __future__ import annotations

import os

# Before torch is imported; what the tests start inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
