"""The simulated engine's server: `python -m llmbench.engines.simulated_server --port 8000`."""
