"""How Sphinx builds the documentation: `tox -e build_docs`."""

import contextlib
import datetime
import io
import json
import re
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import ModuleType

import click
from sphinx_astropy.conf.v3 import *  # noqa: F403
from sphinx_astropy.conf.v3 import exclude_patterns, extensions, intersphinx_mapping

from astrodeblend.cards import card_text
from astrodeblend.cli import main
from astrodeblend.flags import Flag, decode_flags
from astrodeblend.simulate import SURVEYS
from astrodeblend.weights import list_models, read_card

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for scraper.py

# The Blending ToolKit pins an older astropy: what the adapter to it needs to be documented.
for name, content in (
    ("btk", {}),
    ("btk.blend_batch", {"DeblendExample": None}),
    ("btk.deblend", {"Deblender": type("Deblender", (), {"__module__": "btk.deblend"})}),
):
    vars(sys.modules.setdefault(name, ModuleType(name))).update(content)

project = "astrodeblend"
author = "astrodeblend developers"
project_copyright = f"{datetime.date.today().year}, {author}"
release = metadata.version(project)
version = release.partition(".dev")[0]

html_title = f"{project} {release}"
html_static_path = ["_static"]
extensions.append("sphinx_gallery.gen_gallery")
exclude_patterns += ["generated/*.txt"]
toc_object_entries = False
autoclass_content = "class"  # parameters are documented on the class

del intersphinx_mapping["h5py"], intersphinx_mapping["astropy.org"]
intersphinx_mapping.update(
    {
        "reproject": ("https://reproject.readthedocs.io/en/stable/", None),
        "skimage": ("https://scikit-image.org/docs/stable/", None),
        "photutils": ("https://photutils.readthedocs.io/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
)

# A reference that leads nowhere is an error. Other projects' names are let pass, because the
# build has to work without the internet; with it they become links.
nitpicky = True
OTHERS = "PIL|astropy|btk|enum|matplotlib|numpy|pathlib|photutils|reproject|skimage|torch|types"
nitpick_ignore_regex = [
    (r"py:.*", rf"({OTHERS})\..*"),
    (r"py:class", r"(dict|list|tuple)\[.*"),
    (r"py:.*", r"(bool|dict|float|int|list|object|str|tuple|type|None|[A-Z][a-z]+Error)"),
]

# Docstrings of everything in the reference are checked against numpydoc's standard.
numpydoc_validation_checks = {
    "all",  # but for:
    "ES01",  # an extended summary,
    "PR07",  # a description where name and type say it,
    "EX01",  # an example,
    "SA01",  # "See Also",
    "SA03",
    "SA04",
    "RT01",  # "Returns" where the summary says it,
    "RT02",
    "RT03",
    "RT04",  # and matters of taste
    "SS05",
    "SS06",
}
# A class that others make is described by its attributes.
numpydoc_validation_overrides = {"PR01": [r"Attributes\n\s*-{10}"]}
numpydoc_validation_exclude = {
    *(r"\.Moments\b", r"\.Flag\b", r"\.Found\b", r"\.Conditions\b"),  # tuples and an enum
    r"\.(Catalogue|FieldTruth|Seen)\b",  # tuples
    r"score\.(Coverage|Entry|Examples|FieldEntry|SceneSet|Truth)\b",  # what a report is made of
    r"score\.(Photutils|SEP|Scarlet2)\b",  # settings beside their values, methods as on Method
    r"score\.Model\.(components|catalogue|find)\b",
    # for those who read the code, on the page on internals
    r"\.(calibration|cards|detect|field_inference|flags|inference|light|measure|scaling|sky)\.",
    r"\.(stamps|texture|walk)\.|\.blends\.(BlendSet|write_survey_blends)",
    r"\.images\.(?!read_image)",
    r"\.plot\.(in_colour|source_regions)",
    r"\.score\.(by_position|kindest|match_sources|real_files|summary_of)",
    r"\.weights\.(find_model|load_own|one_of_models|read_card|stored_dtype|write_card)",
}


sphinx_gallery_conf = {
    "examples_dirs": "../examples/tutorials",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"plot_\d\d_",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("scraper.figures", "matplotlib"),
    "capture_repr": ("_repr_html_",),
    "min_reported_time": 1,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "download_all_examples": False,
}


def write_model_cards(app):
    """Turn the cards of the shipped models into text that docs/models.rst includes."""
    generated("models.txt", "\n".join(map(model_section, list_models())))


def model_section(name):
    """Return what `astrodeblend models NAME` prints, then the whole card, folded."""
    card = json.dumps(asdict(read_card(name)), indent=2)
    return "\n".join(
        [
            card_text(name, markup=True),
            ".. raw:: html",
            "",
            "    <details><summary>The whole card, with all choices of its training</summary>",
            "",
            ".. code-block:: json",
            "",
            *(f"    {line}" for line in card.splitlines()),
            "",
            ".. raw:: html",
            "",
            "    </details>",
            "",
        ]
    )


def write_command_help(app):
    """Write what each command's ``--help`` prints, for docs/command_line.rst."""
    top = click.Context(main, info_name="astrodeblend", terminal_width=80)
    commands = main.commands.items()
    contexts = [top, *(click.Context(c, info_name=name, parent=top) for name, c in commands)]
    lines = []
    for context in contexts:
        lines += [context.command_path, "=" * len(context.command_path), "", "::", ""]
        lines += [f"    {line}".rstrip() for line in context.get_help().splitlines()]
        lines += [""]
    generated("command_line.txt", "\n".join(lines))


def write_flags(app):
    """Write the table of flags for docs/from_image_to_catalogue.rst."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 8 30 62", ""]
    rows = [("bit", "name", "meaning")]
    rows += [(str(int(flag)), f"``{flag.name}``", *decode_flags(flag)) for flag in Flag]
    for bit, name, words in rows:
        lines += [f"   * - {bit}", f"     - {name}", f"     - {words}"]
    generated("flags.txt", "\n".join(lines))


def write_surveys(app):
    """Write the tables of the simulated surveys for docs/surveys.rst."""
    generated("surveys.txt", "\n\n".join(map(str, SURVEYS.values())) + "\n")


def run_rooms(app):
    """Run the example of docs/from_image_to_catalogue.rst; write what each part of it prints."""
    path = HERE.parent / "examples" / "from_image_to_catalogue.py"
    names = {}
    for part in re.split(r"^# ---- ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        name, _, code = part.partition("\n")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, path.name, "exec"), names)
        generated(f"room_{name}.txt", printed.getvalue())


def generated(name, text):
    path = HERE / "generated" / name
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text("utf-8") != text:  # an unchanged page is not rebuilt
        path.write_text(text, "utf-8")


def setup(app):
    app.connect("builder-inited", write_model_cards)
    app.connect("builder-inited", write_command_help)
    app.connect("builder-inited", write_flags)
    app.connect("builder-inited", write_surveys)
    app.connect("builder-inited", run_rooms)
