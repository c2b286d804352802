from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import workplace as support
from workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    return support.eventually
