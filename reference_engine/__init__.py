"""A serving engine for language models that is meant to be read. Begin with engine.py: the life of a request.

What happens to it, in order:

    server/            an HTTP, WebSocket or gRPC message becomes a prompt and parameters (map in server/__init__.py)
    engine.py          the step that everything else serves: schedule, execute, sample, deliver
    scheduler.py       who runs and how many tokens of each: seats, token budget, chunked prefill, preemption;
                       batching.py has continuous, dynamic and static batching by name, fairness.py whose turn it is
    cache/             whose is which KV block: block_pool.py counts, block_tables.py gives, shares and copies on write,
                       prefix_cache.py names blocks, eviction.py forgets them, host_swap.py takes them to the host,
                       compaction.py moves them to the front
    model_runner.py    the plan as tensors (step_batch.py) through a model (models/) made of layers/
    kernels/           how a layer is computed: contract.py says what, torch_kernels.py is the oracle, csrc/ and
                       triton_lang/ are fast, dispatch.py chooses
    sampler.py         logits become tokens: sampling.py has the parameters, logit_adjustments.py the penalties,
                       guidance.py and guides.py the answers of a given form, beam_search.py the most
                       probable ones
    tokenizer.py       tokens become text, held back where a stop string may begin

What makes it faster: speculative/ (drafts, checked in one step), quantization/ (weights and KV in fewer bits),
graphs.py and step_replay.py (steps without Python). What tells: profiling/ and server/metrics.py. Where the models in
bundled/ come from: training/. Scheduler, cache bookkeeping, sampling parameters and server need no torch.
"""
