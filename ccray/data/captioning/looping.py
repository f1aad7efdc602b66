"""Does a caption say the same over and over? In words where words have spaces between them, in characters everywhere.

Three signs, each found in time that grows with the text alone: a few words or characters again and again in a row, one sentence several times, and a long
text of few different triples. Only the end of a long text is looked at: a model that has begun to loop does not stop.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

LOOK_AT = 10_000  # characters, from the end
LONGEST_PERIOD = 200  # words or characters of what is repeated; longer ones the third sign finds
WORD_TIMES = 4  # one word in a row: "very, very, very" is English
PHRASE_TIMES = 3  # two words and more in a row
UNSPACED_TIMES, UNSPACED_RUN = 3, 12  # characters of a script without spaces: times, and characters of all of them together
SPACED_TIMES, SPACED_RUN = 6, 16  # of one with spaces, whose words are counted already: "!!!!", "hahaha"
GRAM = 6  # characters; what repeats them not at all does not loop
SENTENCE_TIMES, SENTENCE_CHARACTERS = 3, 8
LEAST_TRIPLES, LEAST_DISTINCT = 40, 0.4

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE_END = re.compile(r"[.!?\n。!?…]+")
# Kana, Chinese characters, Thai, Lao, Khmer, Burmese.
UNSPACED_LETTER = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\u0e00-\u0eff\u1780-\u17ff\u1000-\u109f]")


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation; where words have no spaces between them a run of letters is one."""
    return _WORD.findall(text.casefold())


def is_unspaced(text: str) -> bool:
    """Whether a good part of a text is in a script that puts no spaces between words."""
    return not text.isascii() and 4 * len(UNSPACED_LETTER.findall(text)) >= len(text)


def is_looping(text: str) -> bool:
    """Whether a text says the same over and over."""
    end = " ".join(text[-LOOK_AT:].split())
    if len(end) < UNSPACED_RUN // 2:
        return False
    words, unspaced = words_of(end), is_unspaced(end)
    if _words_repeat(words) or _sentence_repeats(end):
        return True
    if _repeats(end, UNSPACED_TIMES, UNSPACED_RUN) if unspaced else _repeats(end, SPACED_TIMES, SPACED_RUN):
        return True
    return _says_little(list(end.replace(" ", "")) if unspaced else ["0" if word.isdigit() else word for word in words])  # "1 cat 2 cat 3 cat ..."


def _words_repeat(words: Sequence[str]) -> bool:
    doubles = len(words) - len(set(words))
    if doubles < PHRASE_TIMES - 1:
        return False
    numbers = _numbered(words)
    if _longest_run(numbers, 1) >= WORD_TIMES:
        return True
    # n words repeated t times hold (t - 1) n that were there before.
    longest = min(doubles // (PHRASE_TIMES - 1), LONGEST_PERIOD)
    return any(_longest_run(numbers, period) >= PHRASE_TIMES * period for period in range(2, longest + 1))


def _repeats(text: str, times: int, run: int) -> bool:
    """Whether characters come `times` times in a row, `run` of them together."""
    grams = [text[place : place + GRAM] for place in range(len(text) - GRAM + 1)]
    doubles = len(grams) - len(set(grams))
    if not doubles:
        return False
    numbers = _numbered(text)
    longest = min((doubles + GRAM - 1) // (times - 1), LONGEST_PERIOD)
    return any(_longest_run(numbers, period) >= max(times * period, run) for period in range(1, longest + 1))


def _numbered(tokens: Sequence[str]) -> np.ndarray:
    """Equal tokens as equal numbers, int64 [n]."""
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(token, len(numbers)) for token in tokens), np.int64, len(tokens))


def _longest_run(numbers: np.ndarray, period: int) -> int:
    """Length of the longest stretch that repeats itself every `period` tokens."""
    differs = np.flatnonzero(numbers[period:] != numbers[:-period])
    ends = np.concatenate([[-1], differs, [len(numbers) - period]])
    return int(np.diff(ends).max()) - 1 + period


def _sentence_repeats(text: str) -> bool:
    sentences = Counter(sentence.strip().casefold() for sentence in _SENTENCE_END.split(text))
    return any(times >= SENTENCE_TIMES and len(sentence) >= SENTENCE_CHARACTERS for sentence, times in sentences.items())


def _says_little(tokens: Sequence[str]) -> bool:
    """Whether a long text has few different triples of words, or of characters in a row."""
    triples = len(tokens) - 2
    return triples >= LEAST_TRIPLES and len(set(zip(tokens, tokens[1:], tokens[2:], strict=False))) < LEAST_DISTINCT * triples
