"""The same blends through other deblenders and through models: quality beside time.

A `Peer` is called with a blend and answers with the light of every source that it found. Where
it finds more than two sources, or does not say which is which, `kindest` chooses for it, looking
at the truth.
"""

from .choice import by_position, kindest
from .peers import PEERS, SEP, Found, Peer, Photutils, Scarlet2
from .result import FILES, Benchmark, Entry
from .runs import benchmark, tune

__all__ = [
    "FILES",
    "PEERS",
    "SEP",
    "Benchmark",
    "Entry",
    "Found",
    "Peer",
    "Photutils",
    "Scarlet2",
    "benchmark",
    "by_position",
    "kindest",
    "tune",
]
