"""Settings of all tests here. No test is skipped: one that cannot run fails."""

import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
