"""A model of no model: answers `tok0 tok1 …` in the shape of a backend, or fails as its prompt asks."""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.shape = config["parameters"]["shape"]["string_value"]
        self.is_batched = config["max_batch_size"] > 0

    def execute(self, requests):
        for request in requests:
            inputs = {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}
            self.answer(request.get_response_sender(), inputs)

    def answer(self, sender, inputs):
        prompt = inputs["text_input"][0].decode()
        if prompt == "SILENT":
            sender.send(flags=FINAL)
            return
        if prompt == "FAIL":
            sender.send(self.error("asked to fail"), flags=FINAL)
            return
        if self.shape == "faults":
            num_tokens = json.loads(inputs["sampling_parameters"][0])["max_tokens"]
        else:
            num_tokens = int(inputs["max_tokens" if self.shape == "trtllm" else "sampling_param_max_tokens"][0])
        streams = bool(inputs.get("streaming" if self.shape == "llmapi" else "stream", [False])[0])
        tokens = [f"tok{index} " for index in range(num_tokens)]
        if not streams:
            sender.send(self.response("".join(tokens), num_tokens), flags=FINAL)
            return
        for index, token in enumerate(tokens):
            time.sleep(0.002)
            if prompt == "FAILMID" and index == 2:
                sender.send(self.error("asked to fail midway"), flags=FINAL)
                return
            text = "".join(tokens[: index + 1]) if self.shape == "llmapi" else token
            # As the backends do: llmapi and vLLM flag their last token, TensorRT-LLM's BLS sends an empty response.
            is_last = index == num_tokens - 1 and self.shape != "trtllm"
            sender.send(self.response(text, 1, is_last), flags=FINAL if is_last else 0)
        if self.shape == "trtllm":
            sender.send(flags=FINAL)

    def response(self, text, num_tokens, is_last=True):
        values = {"text_output": np.array([text], np.object_)}
        if self.shape == "trtllm":
            values["num_output_tokens"] = np.array([num_tokens], np.int32)
        else:
            values["finish_reason"] = np.array(["length" if is_last else "None"], np.object_)
        if self.shape == "faults":
            values["num_output_tokens"] = np.array([num_tokens], np.uint32)
        tensors = [
            pb_utils.Tensor(name, value.reshape(1, -1) if self.is_batched else value) for name, value in values.items()
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def error(self, message):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
