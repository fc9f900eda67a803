"""The same blends through other deblenders and through models: quality beside time.

Of pictures, `benchmark`; of a survey, in linear flux, `benchmark_survey`. A `Peer` is called with a
blend and answers with the light of every source that it found. Where it finds more than two
sources, or does not say which is which, `kindest` chooses for it, looking at the truth.
"""

from .choice import by_position, kindest
from .peers import PEERS, SEP, SURVEY_PEERS, Conditions, Found, Peer, Photutils, Scarlet2
from .result import FILES, Benchmark, Entry
from .runs import benchmark, tune
from .survey_result import SURVEY_FILES, SurveyBenchmark, SurveyEntry, Truth
from .surveys import benchmark_survey, tune_survey

__all__ = [
    "FILES",
    "PEERS",
    "SEP",
    "SURVEY_FILES",
    "SURVEY_PEERS",
    "Benchmark",
    "Conditions",
    "Entry",
    "Found",
    "Peer",
    "Photutils",
    "Scarlet2",
    "SurveyBenchmark",
    "SurveyEntry",
    "Truth",
    "benchmark",
    "benchmark_survey",
    "by_position",
    "kindest",
    "tune",
    "tune_survey",
]
