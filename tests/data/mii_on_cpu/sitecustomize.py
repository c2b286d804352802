"""With this folder on PYTHONPATH the replicas of a deployment that `mii.serve` starts compute on the CPU.

FastGen's engine is CUDA alone: where a replica would load it, it gets the small one of `mii_deployment.py`. Every other
process of the deployment, and all else in this one, is MII's and DeepSpeed's own.
"""

import sys
from pathlib import Path

if "mii.launch.multi_gpu_server" in sys.orig_argv and not {"--load-balancer", "--restful-gateway"} & {*sys.orig_argv}:
    sys.path.append(str(Path(__file__).parents[1]))
    import mii_deployment
    import torch

    torch.set_num_threads(1)
    mii_deployment.mii.api.load_model = lambda config: mii_deployment.CpuEngine(config.model_name_or_path)
