"""llmbench: which LLM inference engine, how fast, and how sure."""

__version__ = "0.1.0"
