"""Speculative decoding: cheap guesses at the next tokens, checked by the model in one step.

A proposer leaves drafts on a sequence; the scheduler plans their verification as one chunk of the last token and the
drafts, with logits at each of its positions; the sampler chooses a token at each position as it always does, and a
draft is kept while it is what was chosen. So a step brings one token more than drafts were kept, and no output changes:

- The choice at a position is a function of the model's distribution there and of one random number that belongs to the
  request's seed and the position (sampler.uniform). Verification makes the same choice that decoding one by one makes,
  drafts or not: the same output for the same seed, and so the same distribution. Deciding by agreement under shared
  randomness is "drafter-invariant" speculative decoding: Daliri, Musco, Suresh, arXiv:2408.07978.
- For drafts that are certain, as those of an n-gram are, it accepts with the probability that the rule of Leviathan et
  al. (arXiv:2211.17192 §2.3) and Chen et al. (arXiv:2302.01318) has: the model's own probability of the draft.
  A draft model draws with the model's random numbers, which makes agreement likely where the two distributions are
  alike. Their rule may accept a little more often then, but its output depends on what was drafted, and so on load.
"""
