"""Options of the whole test run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=("fake", "vllm"), default="fake", help="engine that test_contract.py is about")
