"""An engine that sends back what it was asked, as plain text: the smallest adapter there can be."""

from llmbench.engines.adapter import Capabilities, CountTokens, EngineOptions, LaunchPlan
from llmbench.engines.http_payload import post_json
from llmbench.engines.token_counts import Delta, attribute
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest


class EchoAdapter:
    name = "echo"
    capabilities = Capabilities(chat=False, ignore_eos=False)

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        return post_json(endpoint, "/echo", {"text": request.prompt}, request.request_id, accept="text/plain")

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        deltas = [Delta(chunk, data.decode(errors="replace")) for chunk, data in enumerate(timeline.chunk_bytes)]
        events, tokens, source = attribute(deltas, len(deltas), None, count_tokens, streamed=True)
        return DecodedAnswer(events, output_tokens=tokens, token_source=source, failure=timeline.failure)

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        return None
