"""The same blends through other deblenders and through models: quality beside time.

Of pictures, `benchmark`; of a survey, in linear flux, `benchmark_survey`; of whole fields, in
which sources are to be found, too, `benchmark_fields`. A `Peer` is called with a
blend and answers with the light of every source that it found. Where it finds more than two
sources, or does not say which is which, `kindest` chooses for it, looking at the truth.
"""

from .choice import by_position, kindest
from .field_methods import FIELD_PEERS, Catalogue, FieldMethod, Seen
from .fields import FIELD_FILES, FieldBenchmark, FieldEntry, FieldTruth, benchmark_fields
from .peers import PEERS, SEP, SURVEY_PEERS, Conditions, Found, Peer, Photutils, Scarlet2
from .result import FILES, Benchmark, Entry
from .runs import benchmark, tune
from .survey_result import SURVEY_FILES, SurveyBenchmark, SurveyEntry, Truth
from .surveys import benchmark_survey, tune_survey

__all__ = [
    "FIELD_FILES",
    "FIELD_PEERS",
    "FILES",
    "PEERS",
    "SEP",
    "SURVEY_FILES",
    "SURVEY_PEERS",
    "Benchmark",
    "Catalogue",
    "Conditions",
    "Entry",
    "FieldBenchmark",
    "FieldEntry",
    "FieldMethod",
    "FieldTruth",
    "Found",
    "Peer",
    "Photutils",
    "Scarlet2",
    "Seen",
    "SurveyBenchmark",
    "SurveyEntry",
    "Truth",
    "benchmark",
    "benchmark_fields",
    "benchmark_survey",
    "by_position",
    "kindest",
    "tune",
    "tune_survey",
]
