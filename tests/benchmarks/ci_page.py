"""docs/ci.md followed word for word in a scratch git repository: does the page do what it says?

    python tests/benchmarks/ci_page.py

Runs every `sh` block of the page in order, the Python block as a test file, installations left out. Prints each
llmbench and pytest command with its exit code, and ends in 1 where one is not what the page promises. About five
minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/ci.md"
RED = 6
UNDECIDED = 5
# Whatever a block defines is called by bash as written; these functions note how it ended.
PRELUDE = """
note() { echo "$1 ${*:2}" >> "$LOG"; return 0; }
llmbench() { command llmbench "$@"; note $? llmbench "$@"; }
pytest() { command python -m pytest -q -p llmbench.harness.pytest_plugin "$@"; note $? pytest "$@"; }
pip() { echo "left out: pip $*"; }
"""


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name) / "repository", Path(name) / "log"
        subprocess.run(["git", "init", "--quiet", folder], check=True)
        log.touch()
        env = {**os.environ, "LOG": str(log), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        [test] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        (folder / "test_engine.py").write_text(test)
        (folder / "pytest.ini").write_text("[pytest]\n")
        wrong = told = 0
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
            done = subprocess.run(["bash", "-c", PRELUDE + block], cwd=folder, env=env, capture_output=True, text=True)
            if "--verbose" in sys.argv:
                print(done.stdout, done.stderr)
            lines = log.read_text().splitlines()
            wrong += sum(verdict(*line.split(" ", 1)) for line in lines[told:])
            told = len(lines)
        staged = subprocess.run(["git", "status", "--short"], cwd=folder, capture_output=True, text=True).stdout
    print("baseline.json in git:", "A  baseline.json" in staged)
    return int(wrong > 0 or "A  baseline.json" not in staged)


def verdict(exit_code: str, command: str) -> bool:
    """Print how the command ended; whether that is not what the page promises."""
    expected = RED if command.startswith("llmbench gate") and "slow" in command else 0
    said = {expected: "as promised", UNDECIDED: "undecided"}.get(int(exit_code), "WRONG")
    print(f"{exit_code} {said:11} {command}", flush=True)
    return said == "WRONG"


if __name__ == "__main__":
    sys.exit(main())
