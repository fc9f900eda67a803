"""Figures of results for sphinx-gallery, whose own scraper sees those of pyplot alone."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

_SEEN = []


def figures(block, block_vars, gallery_conf):
    """Save the figures that a block of a tutorial gave a name and that are not pyplot's."""
    _SEEN.extend(map(plt.figure, plt.get_fignums()))
    paths = []
    for value in block_vars["example_globals"].values():
        if isinstance(value, Figure) and value not in _SEEN:
            paths.append(next(block_vars["image_path_iterator"]))
            value.savefig(paths[-1])
            _SEEN.append(value)
    return figure_rst(paths, gallery_conf["src_dir"])
