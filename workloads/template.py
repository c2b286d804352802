"""The workload that `llmbench workloads init` writes: every field, with what it does."""

from __future__ import annotations

_TEMPLATE = """\
# What is asked, on which engines, when, and what is measured. Every field below but `name` and `model` may be left out.
name: my-workload                     # letters, digits, dot, underscore, hyphen; names the results
description: One sentence that says what this workload is for.

# A checkpoint folder (relative to this file), synthetic:<preset> for random weights that are created on first use, or
# the name by which a running server knows its model.
model: synthetic:llama-20m
tokenizer: null                       # a folder with a tokenizer.json or .model; null: the model's own

# Names, or a name with what differs from its defaults:
#   - openai: {url: "http://localhost:8000", label: my server}
#   - reference: {args: [--max-num-seqs, 16], env: {OMP_NUM_THREADS: 2}, startup_timeout_s: 60}
engines: [reference]

# The same seeds give the same requests at the same times, byte for byte.
seeds: {prompts: 0, schedule: 0}

prompts:
  # synthetic | text {path} | jsonl {path} | sharegpt {path} | trace {path, layout} |
  # conversations {turns, prompt_tokens, output_tokens, think_s} | mixed {populations: [{name, weight, prompts}, ..]}
  kind: synthetic
  # A number, or {kind: uniform, min, max}, {kind: normal | lognormal, mean, stddev, min, max},
  # {kind: empirical, values: [..], weights: [..]}. In tokens.
  prompt_tokens: {kind: lognormal, mean: 128, stddev: 64, min: 16, max: 512}
  output_tokens: 32
  shared_prefix: {tokens: 0, groups: 1}   # a beginning that prompts have in common, like a system prompt
  salt: round                         # round: no round measures the prefix cache an earlier one filled; none: it may

request:
  api: completions                    # completions | chat
  stream: true
  ignore_eos: true                    # go on to the full answer length in any case
  token_ids: null                     # true: ask for the ids of the answers' tokens, to compare answers by
  temperature: 0.0                    # 0 is greedy
  top_p: 1.0
  top_k: null
  seed: null
  stop: []

traffic:
  requests: 16                        # in each round
  duration_s: null                    # or, in place of requests: as many as the rate brings in this many seconds
  warmup_requests: 4                  # sent before, left out of all results
  # {kind: closed, concurrency}, {kind: constant | poisson, rate}, {kind: gamma, rate, shape}, {kind: burst},
  # {kind: ramp, start_rate, end_rate}, {kind: stages, stages: [{rate, duration_s}, ..]},
  # {kind: trace, path, layout: azure | burstgpt | mooncake, speed}. Rates in requests per second.
  arrivals: {kind: poisson, rate: 2}
  sweep: null                         # [1, 2, 4]: each a level of its own, in place of the rate or concurrency above
  max_concurrency: null               # the most requests under way at once in an open loop; null: no limit

measure:
  rounds: 4                           # how often each engine gets the whole load; fewer than 4 give no verdict
  slo: {ttft_ms: null, tpot_ms: null, e2e_ms: null}   # what a request must meet to count as good
  timeouts: {connect_s: 10, first_token_s: 120, idle_s: 60, total_s: 600}
  retries: null                       # when a failed request is sent again; null: never
  clock: null                         # what stamps the chunks: auto, packet, kernel or user; null: auto
  warmup: null                        # left out at each round's start: 10%, 5 s, 20 requests, auto; null: nothing
  cooldown: null                      # the same at its end, counted back from when the last request is due
  answer_bytes: null                  # how many bytes of answers are kept to compare them; 0: none; null: 64 MiB
  telemetry_s: null                   # how often engine metrics, processes and GPUs are read, in s; 0: never; null: 1
"""


def template() -> str:
    """A commented workload with every field, ready to run as it is."""
    return _TEMPLATE
