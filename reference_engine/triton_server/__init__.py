"""The engine as a model of NVIDIA's Triton Inference Server: no server of ours, its Python backend calls the engine."""
