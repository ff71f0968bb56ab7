"""Shared by all tests here. Nothing is skipped: what cannot run fails."""

import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
