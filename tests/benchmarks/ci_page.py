"""docs/ci.md followed word for word in a scratch git repository: does the page do what it says?

    python tests/benchmarks/ci_page.py

Runs every `sh` block of the page in order, the Python block as a test file, installations left out. Prints each
llmbench and pytest command with its exit code. Ends in 1 where one is not what the page promises, in 5 where the
machine was too busy for one of them to be decided. About five minutes.
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
PYTEST_FAILED = 1
# Whatever a block defines is called by bash as written; these functions note how it ended.
PRELUDE = """
note() { echo "$1 ${*:2}" >> "$LOG"; return 0; }
llmbench() { command llmbench "$@"; note $? llmbench "$@"; }
pip() { echo "left out: pip $*"; }
pytest() {
  command python -m pytest -q "$@" | tee pytest.txt
  local code=${PIPESTATUS[0]}
  # A test that fails since it could not be measured says nothing of what was slower.
  if grep -q "the measurement is invalid" pytest.txt; then code=5; fi
  note $code pytest "$@" $(grep -o itl_ms=6 test_engine.py)
}
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
        said: list[str] = []
        told = 0
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
            done = subprocess.run(["bash", "-c", PRELUDE + block], cwd=folder, env=env, capture_output=True, text=True)
            if "--verbose" in sys.argv:
                print(done.stdout, done.stderr)
            lines = log.read_text().splitlines()
            said += [verdict(*line.split(" ", 1)) for line in lines[told:]]
            told = len(lines)
        staged = subprocess.run(["git", "status", "--short"], cwd=folder, capture_output=True, text=True).stdout
    in_git = "A  baseline.json" in staged
    print("baseline.json in git:", in_git)
    return 1 if "WRONG" in said or not in_git else UNDECIDED if "undecided" in said else 0


def verdict(exit_code: str, command: str) -> str:
    """Print how the command ended, and what that is to what the page promises; a planted slowdown is to be found."""
    if command.startswith("pytest"):
        expected = PYTEST_FAILED if "itl_ms=6" in command else 0
    else:
        expected = RED if command.startswith("llmbench gate") and "slow" in command else 0
    said = {expected: "as promised", UNDECIDED: "undecided"}.get(int(exit_code), "WRONG")
    print(f"{exit_code} {said:11} {command}", flush=True)
    return said


if __name__ == "__main__":
    sys.exit(main())
