"""`python -m llmbench` is the `llmbench` command."""

from llmbench.harness.cli import main

if __name__ == "__main__":
    main()
