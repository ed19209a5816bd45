"""The words that keys, values and names are made of, written for this package, and draws from them by split.

None of them occurs in the classic filler, in the grammar's sentences or among BABILong's people, rooms and things. A
draw belongs to the evaluation split by the rule of ``tasks.keys``, so no key and no value is met in both splits.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.task import Split

_ADJECTIVES = """
able agile amber ancient arctic austere azure bashful basic blunt bold boreal bouncy brave brazen brief bright
brisk broad bronze bulky calm candid careful cheery chilly civic classic clean clever cobalt coarse cosmic crimson
crisp curious curly daring dense dizzy docile drowsy dusty eager early earnest elastic elegant epic exact faint
fancy feral festive fierce fluffy fluid formal frail frank fresh frosty fuzzy gentle giant glad gleaming glossy
golden graceful grand grim hardy hasty hazel hearty hidden hollow humble icy idle indigo ivory jagged jolly jovial
keen kindly lanky large lavish lazy lean level limber lively lofty loyal lucid lunar magenta maroon meek mellow
mighty mild modest mossy muted narrow neat nimble noble odd olive opal orderly pale patient plain plucky polite
prime proud pure quaint quick rapid rare ready robust rosy rough royal ruby rugged rustic sandy scarlet serene
sharp silent silky silver sleek slender sly smooth sober solar solid spare speedy spicy sterling stout subtle sunny
supple swift tame tardy teal tender thrifty tidy timid tiny tranquil trim turquoise upbeat urban valiant vast
velvet violet vivid wary wild wise witty zany zesty
"""

_NOUNS = """
acorn alloy almond anchor antler anvil arrow aspen atlas autumn badger bamboo banjo barley basil beacon beaver
beetle birch bison blossom boulder bramble breeze bridge bubble bucket buffalo cactus camel canary candle canoe
canyon carbon castle cedar cello cherry chisel cinder citrus clover cobra coral cougar coyote crane crater cricket
crystal cypress dahlia desert diamond dolphin dragon eagle eclipse elbow ember engine falcon feather fern ferret
fiddle finch fjord flute forest fossil fountain galaxy garlic gazelle geyser ginger glacier goblet gopher granite
guitar hammer harp hawk hazelnut hedgehog helmet heron hickory hornet iceberg iguana island ivy jackal jaguar
jasmine jigsaw juniper kayak kernel kettle kite lagoon lantern lava lemon lemur leopard lichen lily lizard lobster
lotus lynx magnet magpie mango mantis maple marble meadow meteor mirror mitten monsoon moose mosaic mustard nebula
nectar needle nettle nickel nugget nutmeg oasis ocelot octopus opera orbit orchid oriole osprey otter oyster paddle
panda panther papaya parrot pebble pelican pepper petunia pigeon pillow piston planet plasma plum pollen poplar
prairie prism puffin puma pumpkin python quail quartz quiver rabbit raccoon radish raven reef ribbon river robin
rocket saddle saffron salmon sapling satchel scarab sequoia shamrock shovel skylark sparrow sphinx spiral spruce
squid stallion sulfur summit sundial sycamore tangerine teapot temple thicket thistle thunder tiger toucan tractor
trumpet tulip tundra turbine turnip turtle umbrella valley vanilla viola volcano walnut walrus weasel whistle
willow winter wombat yarrow zebra zephyr zinc zodiac
"""

_FIRST_NAMES = """
Ada Aldo Alma Amos Anya Arlo Asta Bela Bruno Cara Cleo Cyril Dario Dina Edgar Edith Elio Elsa Enzo Erik Esme Ezra
Fabio Faye Felix Fiona Flora Gaia Gino Greta Hugo Ida Igor Ines Irma Ivan Jana Jonas Kai Karin Lars Lena Leo Liam
Lola Luca Magda Malik Mara Milo Mina Nadia Nico Nora Olaf Olga Oscar Otto Paula Petra Quentin Rhea Rita Rosa Ruben
Selma Silas Sonja Tara Theo Tilda Ugo Una Vera Viktor Wanda Willa Yara Yuri Zelda
"""

_LAST_NAMES = """
Abbott Acker Alder Ansel Archer Ashby Barlow Baxter Becker Bishop Bolton Brandt Burke Calder Carver Cole Crane
Dalton Dexter Drake Eaton Ellis Farrow Fisher Foster Garner Gibson Graves Hale Harlow Hobbs Holt Hurst Irving
Jarvis Keller Kemp Kirby Lambert Lang Lowell Marsh Mercer Monroe Nash Norris Ogden Parrish Pike Porter Quigley
Ramsey Reeves Rhodes Sawyer Shaw Slater Sutton Tanner Thorne Tucker Upton Vance Vaughn Wade Walsh Weaver Webb
Wexler Whitby Wilder Yates
"""

_NUMBERED = """
account address anchor badge ballot barrel bed berth booking bottle bus cabin canteen car carton case catalogue
chair chapter claim class contract counter coupon court crate customer deposit desk dock draft edition entry
exhibit file flight folder form frame gate grant group invoice item label lane ledger licence locker lot machine
member meter model order package page parcel patent permit plate platform policy pump queue receipt record reel
room route sample seat serial shelf shipment slot stamp station table tag ticket track train truck tunnel unit
vessel visitor volume ward
"""

_LOCKED = "door gate locker safe chest box drawer vault cabinet cellar garage shed trunk hatch pantry archive"

ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())
FIRST_NAMES = tuple(_FIRST_NAMES.split())
LAST_NAMES = tuple(_LAST_NAMES.split())
NUMBERED = tuple(_NUMBERED.split())
LOCKED = tuple(_LOCKED.split())

ROSETTA = "ROSETTA"

_COUNTED = 1 << 17
"""Of so many words those of a split are counted and listed; of more they are drawn until enough are found."""


class Drawer(ABC):
    """A kind of words, numbers or names, from which different ones are drawn."""

    @abstractmethod
    def available(self, split: Split) -> int:
        """Return how many different ones there are in a split."""

    @abstractmethod
    def some(self, draws: Draws, split: Split, count: int) -> list[str]:
        """Return about ``count`` or more of a split in random order, perhaps with repetitions."""

    def draw(self, draws: Draws, split: Split, count: int, taken: Collection[str] = ()) -> list[str]:
        """Return ``count`` different ones of a split, none of them ``taken``.

        Raises:
            InputError: there are not so many.
        """
        if count + len(taken) > self.available(split):
            raise InputError(
                f"{count + len(taken)} different keys or values are needed, and the {split} split has "
                f"{self.available(split)} of this kind; ask for fewer needles, a shorter context or another kind"
            )
        found: dict[str, None] = {}
        barred = set(taken)
        while len(found) < count:
            found.update((each, None) for each in self.some(draws, split, count - len(found)) if each not in barred)
        return list(found)[:count]


@dataclass(frozen=True)
class Coded(Drawer):
    """Words that stand for the numbers ``lowest .. lowest + size - 1``, whose split is theirs.

    ``shared`` words belong to both splits.
    """

    shared: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def size(self) -> int:
        """How many words there are in all."""

    @property
    def lowest(self) -> int:
        """The first number."""
        return 0

    @abstractmethod
    def word(self, code: int) -> str:
        """Return the word of a number."""

    def available(self, split: Split) -> int:
        """Return how many words belong to a split; where there are very many, a little less."""
        if self.size <= _COUNTED:
            return self._codes(split).size
        return self.size if self.shared else int(self.size * (0.19 if split == "evaluation" else 0.79))

    def some(self, draws: Draws, split: Split, count: int) -> list[str]:
        """Return words of a split, all of them once where many are wanted."""
        if self.size <= _COUNTED:
            codes = self._codes(split)
            few = 4 * count < codes.size
            codes = codes[draws.integers(codes.size, count + 4) if few else draws.permutation(codes.size)]
        else:
            codes = draws.integers(self.size, 8 + (6 if split == "evaluation" else 2) * count) + self.lowest
            codes = codes if self.shared else codes[is_evaluation_key(codes) == (split == "evaluation")]
        return [self.word(code) for code in codes.tolist()]

    def _codes(self, split: Split) -> NDArray[np.int64]:
        return _codes(self.lowest, self.size, None if self.shared else split)


@dataclass(frozen=True)
class Listed(Coded):
    """Every ``first`` with every ``second``, joined; the empty string as the only second leaves single words."""

    first: tuple[str, ...]
    second: tuple[str, ...] = ("",)
    joint: str = ""

    @property
    def size(self) -> int:
        """How many words there are in all."""
        return len(self.first) * len(self.second)

    def word(self, code: int) -> str:
        """Return the word of a number."""
        first, second = divmod(code, len(self.second))
        return self.first[first] + self.joint + self.second[second]


@dataclass(frozen=True)
class Numbers(Coded):
    """Numbers of ``width`` digits without a leading zero."""

    width: int

    @property
    def size(self) -> int:
        """How many numbers there are in all."""
        return 9 * self.lowest

    @property
    def lowest(self) -> int:
        """The first number."""
        return 10 ** (self.width - 1)

    def word(self, code: int) -> str:
        """Return the number as it is written."""
        return str(code)


@dataclass(frozen=True)
class Letters(Coded):
    """Words of ``width`` letters or syllables, such as names of variables and coded words."""

    width: int
    alphabet: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many words there are in all."""
        return len(self.alphabet) ** self.width

    def word(self, code: int) -> str:
        """Return the word of a number."""
        base = len(self.alphabet)
        return "".join(self.alphabet[code // base**place % base] for place in range(self.width))


@dataclass(frozen=True)
class Uuids(Drawer):
    """Random UUIDs (version 4); the split is that of their first 64 bits."""

    def available(self, split: Split) -> int:
        """Return a number beyond any need."""
        return 2**60

    def some(self, draws: Draws, split: Split, count: int) -> list[str]:
        """Return UUIDs of a split."""
        bits = draws.bits(16 + (12 if split == "evaluation" else 3) * count // 2 * 2).reshape(-1, 2)
        high = bits[:, 0] & ~np.uint64(0xF000) | np.uint64(0x4000)
        low = bits[:, 1] & ~(np.uint64(3) << np.uint64(62)) | (np.uint64(2) << np.uint64(62))
        mine = is_evaluation_key(high) == (split == "evaluation")
        texts = [f"{a:016x}{b:016x}" for a, b in zip(high[mine].tolist(), low[mine].tolist(), strict=True)]
        return [f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" for text in texts]


@dataclass(frozen=True)
class Led(Drawer):
    """One word that comes first in every draw of the given splits, and is drawn in none, before those of ``rest``."""

    word: str
    rest: Drawer
    splits: tuple[Split, ...] = ("training", "evaluation")

    def available(self, split: Split) -> int:
        """Return how many there are."""
        return self.rest.available(split) + (split in self.splits)

    def some(self, draws: Draws, split: Split, count: int) -> list[str]:
        """Return the word, where it belongs to the split, and words of the rest."""
        lead = [self.word] if split in self.splits else []
        return lead + self.rest.some(draws, split, count)


COMPOUNDS = Listed(ADJECTIVES, NOUNS, "-")
CUES = Listed(tuple(noun.upper() for noun in NOUNS))
TICKETS = Listed(tuple(f"{noun} number" for noun in NUMBERED), shared=True)
FULL_NAMES = Listed(FIRST_NAMES, LAST_NAMES, " ")
DOORS = Listed(ADJECTIVES, LOCKED, " ")


@cache
def _codes(lowest: int, size: int, split: Split | None) -> NDArray[np.int64]:
    codes = np.arange(lowest, lowest + size)
    return codes if split is None else codes[is_evaluation_key(codes) == (split == "evaluation")]
