"""The benchmarks are scripts beside the package; their logic is tested like any other."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent.parent.parent))
