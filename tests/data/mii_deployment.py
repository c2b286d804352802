"""DeepSpeed-MII's own scheduler, samplers, gRPC server, load balancer and gateway over a model that runs on a CPU.

    python mii_deployment.py serve MODEL_FOLDER REPLICA_PORT LOAD_BALANCER_PORT [READY_PORT]
    python mii_deployment.py gateway MODEL_FOLDER LOAD_BALANCER_PORT REST_PORT

FastGen's engine is CUDA alone, so this one takes its place: the calls that MII's scheduler makes, answered by
transformers. For the interpreter of an environment with deepspeed-mii; nothing of llmbench is imported.

READY_PORT answers every HTTP request with 200 once both gRPC ports take connections. The file named by MII_STEPS gets a
line per step of the engine: when it began (time.perf_counter_ns), how long it took in ns, sequences, tokens.
"""

import asyncio
import http.server
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import torch

torch.cuda.synchronize = lambda *args: None

from deepspeed.accelerator import get_accelerator  # noqa: E402

get_accelerator().current_device = lambda: 0

import mii  # noqa: E402
from mii.backend import MIIClient  # noqa: E402
from mii.batching import MIIAsyncPipeline  # noqa: E402
from mii.config import MIIConfig, ModelConfig, ReplicaConfig  # noqa: E402
from mii.grpc_related.modelresponse_server import serve_inference, serve_load_balancing  # noqa: E402
from mii.grpc_related.restful_gateway import RestfulGatewayThread  # noqa: E402
from mii.modeling.tokenizers import load_tokenizer  # noqa: E402
from transformers import AutoModelForCausalLM, DynamicCache  # noqa: E402


class CpuEngine:
    """What MII asks of deepspeed's InferenceEngineV2, one sequence after the other."""

    free_blocks = torch.tensor([1 << 20])

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()
        self.caches = {}
        steps = os.environ.get("MII_STEPS")
        self.steps = Path(steps).open("a", buffering=1) if steps else None  # noqa: SIM115
        self._config = SimpleNamespace(
            state_manager=SimpleNamespace(max_ragged_sequence_count=32, max_ragged_batch_size=512)
        )
        length = self.model.config.max_position_embeddings
        self._policy = SimpleNamespace(
            _checkpoint_engine=SimpleNamespace(model_config=SimpleNamespace(max_seq_length=length))
        )

    @torch.inference_mode()
    def put(self, uids, tokens, do_checks=False):
        begun_ns = time.perf_counter_ns()
        rows = []
        for uid, new in zip(uids, tokens, strict=True):
            cache = self.caches.setdefault(uid, DynamicCache())
            output = self.model(new.reshape(1, -1), past_key_values=cache, use_cache=True)
            rows.append(output.logits[0, -1])
        if self.steps is not None:
            took_ns = time.perf_counter_ns() - begun_ns
            print(begun_ns, took_ns, len(uids), sum(map(len, tokens)), file=self.steps)
        return torch.stack(rows)

    def query(self, uid, max_request_tokens, max_request_blocks):
        return max_request_tokens, 1

    def get_remaining_block_capacity(self, uid):
        return 1

    def flush(self, uid):
        self.caches.pop(uid, None)


def serve(folder, replica_port, balancer_port, ready_port=None):
    torch.set_num_threads(1)
    config = ModelConfig(model_name_or_path=folder, tokenizer=folder, zmq_port_number=replica_port + 1000)
    pipeline = MIIAsyncPipeline(CpuEngine(folder), load_tokenizer(config), config)
    threading.Thread(target=serve_inference, args=(pipeline, replica_port), daemon=True).start()
    config.replica_configs = [ReplicaConfig(hostname="localhost", tensor_parallel_ports=[replica_port])]
    if ready_port is not None:
        threading.Thread(target=tell_ready, args=(ready_port, replica_port, balancer_port), daemon=True).start()
    asyncio.set_event_loop(asyncio.new_event_loop())
    serve_load_balancing(config, balancer_port)


def tell_ready(ready_port, *ports):
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

    http.server.HTTPServer(("127.0.0.1", ready_port), Ready).serve_forever()


def gateway(folder, balancer_port, rest_port):
    """The gateway finds its deployment by a file that `mii.serve` writes; here it is told."""
    model_config = ModelConfig(model_name_or_path=folder, tokenizer=folder)
    found = MIIConfig(deployment_name="tiny", model_config=model_config, port_number=balancer_port)
    mii.client = lambda name: MIIClient(found)
    thread = RestfulGatewayThread("tiny", "127.0.0.1", rest_port, rest_procs=4)
    thread.start()
    thread.join()


if __name__ == "__main__":
    what, folder, *ports = sys.argv[1:]
    {"serve": serve, "gateway": gateway}[what](folder, *map(int, ports))
