"""Text that looks like language to a tokenizer: made-up words with natural frequencies, the same on every machine."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


def _choices(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _choices(
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r s sc sh sl sp st str t th tr v w y"
)
_VOWELS = _choices("a e i o u ai au ea ee ia ie io oa oo ou")
_CODAS = _choices("b ck d f g l ll m n nd ng nt p r rd rk rn rt s ss st t th x")
_SCRIPTS = ("abcdefghijklmnopqrstuvwxyz", "äöüßéèñçøåœ", "αβγδεζηθικλμν", "бгджзийклмнп", "日本語中文字学生", "🙂🚀✨")


class _Dice:
    """Choices out of `Random.random` alone, whose stream Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self.share = random.Random(seed).random

    def below(self, bound: int) -> int:
        return int(self.share() * bound)

    def pick(self, choices: Sequence[str]) -> str:
        return choices[self.below(len(choices))]


def lines(num_lines: int, num_words: int, seed: int) -> list[str]:
    """`num_lines` sentences over a vocabulary of about `num_words` words with frequencies of 1/rank (Zipf 1949)."""
    dice = _Dice(seed)
    words = list(dict.fromkeys(_word(dice) for _ in range(num_words)))
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    made = []
    for _ in range(num_lines):
        sentence = [words[bisect_left(weights, dice.share() * weights[-1])] for _ in range(5 + dice.below(15))]
        sentence[0] = sentence[0].capitalize()
        if dice.share() < 0.2:
            sentence.append(str(dice.below(10_000)))
        if dice.share() < 0.1:
            sentence.append("".join(dice.pick(dice.pick(_SCRIPTS)) for _ in range(4)))
        made.append(" ".join(sentence) + dice.pick(".?!:;,"))
    return made


def _word(dice: _Dice) -> str:
    syllables = 1 + dice.below(4)
    return "".join(
        dice.pick(_ONSETS) + dice.pick(_VOWELS) + (dice.pick(_CODAS) if dice.share() < 0.6 else "")
        for _ in range(syllables)
    )
