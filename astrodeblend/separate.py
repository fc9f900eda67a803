"""Every source of an image alone: each in the middle of its own stamp, until all agree.

The recentring scheme of Reiman & Goehre (2019): the network is asked for the central galaxy of
one stamp after the other. It knows blends of two, so of a source's neighbours all but the one
that gives most light to its stamp are taken out, as well as they are known from the round before;
in pictures before the first one, by their shapes. Those whose stamps have changed since go again,
until what is taken out changes no more.
"""

from contextlib import suppress
from dataclasses import replace
from operator import is_

import numpy as np
from astropy.nddata import NDData
from scipy import ndimage

from astrodeblend.apportion import prepare, stamp_flags
from astrodeblend.background import data_and_mask
from astrodeblend.components import Component, share_out
from astrodeblend.places import full_scale_of
from astrodeblend.results import Flag
from astrodeblend.stretch import NoiseStretch
from astrodeblend.templates import alike, filled, hanging_together

__all__ = ["separate"]

_MARGIN = 6  # pixels around a stamp that support its resampling
_SMOOTH = 1.5  # pixels; a footprint is where the light, smoothed so, stands out
_SEEN = 5.0  # by so many standard deviations of the noise that is left, as for detection
_GROWN = 2  # and so many pixels more
_SEEN_NOISELESS = 0.1  # where light comes without noise
_WINGS = 0.1  # of a stamp's width, to which an isolated source's segment is grown
_AGREED = 1.0  # rms of a change over the footprint, in units of the noise, below which it is none
_AT_ONCE = 128  # stamps in memory
_BRIGHT = 5.0  # standard deviations above which two galaxies overlap for certain
_WHITE = 0.97  # of full scale, above which a picture shows no more light
# On 40 simulated scenes of split val the excess of light where galaxies overlap is 0.01 to 0.21
# of the fainter one's under a maximum, and 0.09 to 1.1 under a sum: two of those are misread.
_ADDS = 0.22
_PARTNER = 0.3  # widths of a stamp of a picture; in training companions were as far as 0.21
_CORE = 1 / 30  # of a stamp's width around a position, a fifth of a Petrosian radius, is no gap
_DAMPED = 2  # after so many rounds half of each change is taken, lest light goes to and fro


def separate(
    image, level, places, segmentation, parents, size_rule, run, score, *, rounds=8, watch=iter
):
    """Separate the sources of an image from each other.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    level : numpy.ndarray
        Of the sky, of a shape that broadcasts to the image's.
    places : list of Place
        Where the sources are.
    segmentation : numpy.ndarray of int, shape (y, x)
        Which of the places, counted from 1, the source in each pixel has; 0 for the sky.
    parents : numpy.ndarray of int
        The same number for sources whose light touches.
    size_rule : dict
        Of the model's card.
    run : callable
        Takes stamps (n, bands, pixels, pixels) as the network does; returns their components
        (n, 2, bands, pixels, pixels), the standard deviation of the central ones, flags and blend
        scores.
    score : callable or None
        Takes such stamps; returns their blend scores and flags. It is asked about isolated sources.
    rounds : int, optional
        The most rounds to take.
    watch : callable, optional
        Is given a range of the sources of each round, for a progress bar around it.

    Returns
    -------
    components : list of Component
        One for each place.
    taken : int
        How many rounds it took.
    adds : bool
        Whether light adds where sources overlap; otherwise the brightest one hides the others.
    """
    sources = _Sources(image, level, places, segmentation, parents, size_rule)
    if score is not None:
        sources.judge_isolated(score)
    taken, active = 0, sources.blended
    while active and taken < rounds:
        answers = sources.ask(active, run, first=not taken, watch=watch)
        taken += 1
        sources.update(answers, taken)
        active = [k for k in sources.blended if sources.unsettled(k, taken)]
    for k in active:
        sources.flag(k, Flag.NOT_CONVERGED)
    return sources.limited(), taken, sources.adds


class _Sources:
    """What is known of the sources of an image, from round to round.

    Attributes
    ----------
    blended : list of int
        The sources that touch others.
    adds : bool
        Whether light adds where they do.
    """

    def __init__(self, image, level, places, segmentation, parents, size_rule):
        self._image, self._size_rule = image, size_rule
        self._places, self._segmentation = places, segmentation
        self._data, self._hidden = data_and_mask(image)
        self._light = np.where(self._hidden, 0, self._data - level)
        distance = ndimage.distance_transform_edt(segmentation == 0)
        self._components = [
            _whole(image, self._data, self._hidden, place, segmentation, distance, k)
            for k, place in enumerate(places, 1)
        ]
        members = np.bincount(parents, minlength=1 + max(parents, default=0))
        self.blended = [k for k in range(len(places)) if members[parents[k]] > 1]
        self._isolated = [k for k in range(len(places)) if members[parents[k]] == 1]
        self._boxes = [_box(place, segmentation.shape, _MARGIN) for place in places]
        self.adds = full_scale_of(image) is None
        self._subtracted, self._kept = _neighbours(
            self._light,
            self._components,
            places,
            segmentation,
            parents,
            self.blended,
            farthest=np.inf if self.adds else _PARTNER,
        )
        # Pictures: what shapes tell, before the network has seen any.
        self._guesses = {}
        if not self.adds:
            seen = filled(self._light, self._hidden)
            smooth = ndimage.gaussian_filter(seen, (0, _SMOOTH, _SMOOTH))
            self._guesses = {
                k: _guess(smooth, self._components[k], places[k]) for k in self.blended
            }
        # What neighbours are taken to be.
        self._known = [self._guesses.get(k, c) for k, c in enumerate(self._components)]
        self._taken_out = {}  # of each stamp, when the network last saw it
        self._made = {}  # of each limited component: what it was made of, and what came out

    def flag(self, k, flags):
        """Add flags to a source."""
        component = self._components[k]
        self._components[k] = replace(component, flags=component.flags | flags)

    def judge_isolated(self, score):
        """Give sources that touch no other their blend scores, the segments of others taken out."""
        for start in range(0, len(self._isolated), _AT_ONCE):
            blends = {}
            for k in self._isolated[start : start + _AT_ONCE]:
                segments = self._segmentation[self._boxes[k]]
                others = self._light[:, *self._boxes[k]] * ((segments != 0) & (segments != k + 1))
                with suppress(ValueError):  # such as a band without a valid pixel
                    blends[k] = self._stamp(k, others)[0].blend
            if blends:
                scores = score(np.stack(list(blends.values())))
                for k, seen, flags in zip(blends, *scores, strict=True):
                    self.flag(k, flags)
                    self._components[k] = replace(self._components[k], blend_score=seen)

    def ask(self, chosen, run, *, first, watch=iter):
        """Return what the network makes of some sources' stamps, as a dict of components.

        In the first round where light adds, stamps go as they are; in that of a picture the
        answers tell whether it does, and ``adds`` is set. What was taken out is remembered.
        """
        answers, stamps, excess = {}, {}, np.zeros(2)
        for k in watch(chosen):
            nothing = first and self.adds
            self._taken_out[k] = (
                np.zeros_like(self._light[:, *self._boxes[k]]) if nothing else self._others_in(k)
            )
            try:
                stamps[k] = self._stamp(k, self._taken_out[k])
            except ValueError:  # such as a band without a valid pixel
                answers[k] = _failed(self._components[k])
            if stamps and (len(stamps) == _AT_ONCE or k == chosen[-1]):
                drawn = run(np.stack([prepared.blend for prepared, _ in stamps.values()]))
                for (j, stamp), both, std, flags, seen in zip(stamps.items(), *drawn, strict=True):
                    if first and not self.adds:
                        excess += _excess(stamp[0], both)
                    component = _component(*stamp, both[0], std, flags, self._places[j])
                    component = component or _failed(self._components[j])
                    # The score of the first round, with most of its neighbours.
                    seen = seen if first else self._components[j].blend_score
                    answers[j] = replace(component, blend_score=seen)
                stamps = {}
        if first and not self.adds:
            self.adds = bool(excess[0] > _ADDS * excess[1])
        return answers

    def update(self, answers, taken):
        """Take over what the network makes of some sources after so many rounds."""
        for k, new in answers.items():
            if new.flags & Flag.NOT_DEBLENDED:
                change = 0.0
            elif taken == 1:
                change = np.nan
            else:
                damped = taken > _DAMPED
                new, change = _moved(self._components[k], new, self._places[k], damped)
            self._components[k] = replace(new, change=change)
        limited = self.limited()
        self._known = share_out(self._light, limited) if self.adds else limited

    def unsettled(self, k, taken):
        """Whether a source's stamp has to be looked at again after so many rounds."""
        component = self._components[k]
        if component.flags & Flag.NOT_DEBLENDED:
            return False
        if taken > _DAMPED and component.change > _AGREED:
            return True
        change = (self._others_in(k) - self._taken_out[k]) / self._places[k].noise
        inner, _ = _shared(self._boxes[k], component.box)
        footprint = (component.light != 0).any(axis=0)
        change = change[:, *inner]
        return _rms(change[:, footprint] if footprint.any() else change) > _AGREED

    def limited(self):
        """Return the components, in pictures with no more than their shapes tell of each."""
        limited = list(self._components)
        for k, guess in self._guesses.items():
            others = [*self._subtracted[k], *(self._kept[k] - {k})]
            of = [self.adds, *(self._components[j] for j in (k, *others))]
            if k not in self._made or not all(map(is_, self._made[k][0], of)):
                made = self._components[k]
                if not made.flags & Flag.NOT_DEBLENDED:
                    given = self._components, others, guess, self._hidden, self._places[k]
                    made = _limited(k, *given, self.adds)
                self._made[k] = of, made
            limited[k] = self._made[k][1]
        return limited

    def _others_in(self, k):
        """Return the light of neighbours that is taken out of a source's stamp."""
        box = self._boxes[k]
        if self.adds:
            return _sum_of(self._known, self._subtracted[k], box)
        others = self._subtracted[k], self._kept[k]
        return _hiding(self._light, self._known, *others, box, self._places[k])

    def _stamp(self, k, others):
        """Prepare a source's stamp with the light of others taken out; and where its corner is."""
        image, place, box = self._image, self._places[k], self._boxes[k]
        corner = tuple(part.start for part in box)
        local = (self._data[:, *box] - others).astype(np.float32)
        mask = None if image.mask is None else image.mask[:, *box]
        local = NDData(local, mask=mask, unit=image.unit, meta=image.meta)
        if image.uncertainty is not None:
            local.uncertainty = image.uncertainty[:, *box]
        x, y = place.position
        moved = replace(place, position=(x - corner[1], y - corner[0]))
        return prepare(local, moved, self._size_rule), corner


def _guess(light, component, place):
    """Return a component with what of the image's light may be its own by its shape."""
    at = _inside(place, component.box)
    own = np.maximum(alike(light[:, *component.box], at), 0)
    return replace(component, light=own * hanging_together(own, at, reach=_reach(place)))


def _limited(k, components, others, guess, hidden, place, adds):
    """Return a source of a picture with no more of what others claim than its shape tells.

    With many galaxies in a stamp the network gives to one what it sees of another. So beyond a gap
    it has no more than at the bottom of that; and where it is hidden, and made up therefore, no
    more than on its opposite side. Its deviations stay: what was cut off is as uncertain as before.
    """
    component = components[k]
    box, own = component.box, component.light
    rest = _brightest_of(components, others, box)
    seen = filled(own, hidden[:, *box])
    together = hanging_together(seen, _inside(place, box), reach=_reach(place))
    own = np.where(rest > 0, own * together, own)
    if not adds:
        own = np.where(rest > own, np.minimum(own, guess.light), own)
    return replace(component, light=own)


def _reach(place):
    return max(_CORE * place.width, 1.5)


def _inside(place, box):
    """Return where a place is in a part of the image, (x, y)."""
    x, y = place.position
    return x - box[1].start, y - box[0].start


def _sum_of(components, chosen, box):
    """Return the light of some components in a part of the image."""
    bands = len(components[0].light)
    total = np.zeros((bands, *(part.stop - part.start for part in box)), np.float32)
    for j in chosen:
        inner, outer = _shared(box, components[j].box)
        total[:, *inner] += components[j].light[:, *outer]
    return total


def _excess(prepared, components):
    """Return how much brighter a stamp of a picture is than the brighter one of two components.

    Where both are bright; and what the fainter one has there, of which it is all where light adds
    and nothing where the brighter galaxy hides the other. The network has learned both.
    """
    sky, noise = (prepared.stretch(values) for values in (prepared.level, prepared.noise))
    second, first = np.sort(components, axis=0) - sky
    bright = (second > _BRIGHT * noise) & (prepared.blend < _WHITE)
    excess = prepared.blend - sky - first
    return np.array([values[bright].sum() for values in (excess, second)])


def _hiding(light, known, others, kept, box, place):
    """Return what of the light is there only because others hide what lies behind them.

    Where light does not add, as it very nearly does not in a picture that was stretched, the
    brighter galaxy hides the other. So nothing is taken out but where one of the others is
    brighter than those that are kept, and there down to theirs.
    """
    shown, gone = (_brightest_of(known, chosen, box) for chosen in (kept, others))
    floor = place.noise / 4
    return light[:, *box] * (1 - (shown + floor) / (np.maximum(shown, gone) + floor))


def _brightest_of(components, chosen, box):
    """Return the brightest of some components in each pixel of a part of the image."""
    brightest = np.zeros((len(components[0].light), *(p.stop - p.start for p in box)), np.float32)
    for j in chosen:
        inner, outer = _shared(box, components[j].box)
        part = brightest[:, *inner]
        np.maximum(part, components[j].light[:, *outer], out=part)
    return brightest


def _rms(values):
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def _neighbours(light, components, places, segmentation, parents, blended, farthest):
    """Return, for each blended source, which others are taken out of its stamp, and who stays.

    All go that reach into it but its partner: of those that touch it, the one that gives most
    light to the stamp, if it is no farther from the middle than so many widths of the stamp.
    """
    light = light.sum(axis=0)
    positions = np.array([place.position for place in places])
    starts, ends = (
        np.array([[getattr(part, end) for part in c.box] for c in components])
        for end in ("start", "stop")
    )
    subtracted, kept = {}, {}
    for k in blended:
        box = components[k].box
        labels = segmentation[box].ravel()
        given = np.bincount(labels, light[box].ravel(), minlength=len(components) + 1)[1:]
        near = ((starts < ends[k]) & (starts[k] < ends)).all(axis=1)
        near[k] = False
        away = np.abs(positions - positions[k]).max(axis=1)
        partners = near & (parents == parents[k]) & (away <= farthest * places[k].width)
        given = np.where(partners, given, 0)
        partner = np.argmax(given) if given.max() > 0 else k
        subtracted[k] = [j for j in np.flatnonzero(near) if j != partner]
        kept[k] = {k, partner}
    return subtracted, kept


def _box(place, shape, margin=0):
    """Return the part of the image that a stamp covers."""
    half = place.width / 2 + margin
    box = []
    for at, side in zip(place.position[::-1], shape, strict=True):
        # as in `astrodeblend.stamps.Stamp`
        low, high = np.floor(at - half + 0.5 + 1e-9), np.ceil(at + half + 0.5 - 1e-9)
        box.append(slice(max(int(low), 0), min(int(high), side)))
    return tuple(box)


def _whole(image, data, hidden, place, segmentation, distance, number):
    """Return all the light around a source to whose segment no other one is nearer."""
    box = _box(place, segmentation.shape)
    own = segmentation[box] == number
    apart = ndimage.distance_transform_edt(~own)
    grown = (apart <= distance[box]) & (apart <= _WINGS * place.width)
    seen = (grown & own.any()) & ~hidden[:, *box]
    light = np.where(seen, data[:, *box] - place.level, 0)
    variance = np.where(seen, _variance(image, place, box), 0)
    flags = place.flags | stamp_flags(image, box, place.width, place.full_scale)
    return Component(box, light, variance, flags)


def _variance(image, place, box):
    if image.uncertainty is None:
        return np.broadcast_to(place.noise**2, (len(image.data), *(s.stop - s.start for s in box)))
    return image.uncertainty.array[:, *box].astype(float) ** 2


def _shared(a, b):
    """Return what two boxes share, as slices of the one and of the other."""
    low = [max(p.start, q.start) for p, q in zip(a, b, strict=True)]
    high = [max(min(p.stop, q.stop), start) for p, q, start in zip(a, b, low, strict=True)]
    return tuple(
        tuple(slice(lo - p.start, hi - p.start) for lo, hi, p in zip(low, high, box, strict=True))
        for box in (a, b)
    )


def _component(prepared, corner, answer, std, flags, place):
    """Turn the network's answer into light in the image; None if it is not finite."""
    if not (np.isfinite(answer).all() and np.isfinite(std).all()):
        return None
    light, _, variance = prepared.light(answer, std)
    deblending = prepared.deblending_std(answer, std) ** 2
    box = tuple(
        slice(part.start + start, part.stop + start)
        for part, start in zip(prepared.stamp.slices, corner, strict=True)
    )
    noiseless = isinstance(prepared.stretch, NoiseStretch)
    footprint = _footprint(light, place, box, _SEEN_NOISELESS if noiseless else _SEEN)
    light, variance, deblending = (x * footprint for x in (light, variance, deblending))
    return Component(box, light, variance, flags | prepared.flags, deblending=deblending)


def _footprint(light, place, box, seen):
    """Return where a source's light stands out, around its position, shape (y, x).

    By so many standard deviations of the noise that smoothing leaves.
    """
    summed = (light / place.noise).sum(axis=0)
    smooth = ndimage.gaussian_filter(summed, _SMOOTH)
    left = np.sqrt(len(light)) / (2 * np.sqrt(np.pi) * _SMOOTH)
    regions, _ = ndimage.label(smooth > seen * left)
    rows, columns = np.indices(regions.shape)
    distance = np.hypot(
        columns + box[1].start - place.position[0], rows + box[0].start - place.position[1]
    )
    distance[regions == 0] = np.inf
    nearest = np.unravel_index(np.argmin(distance), distance.shape)
    if distance[nearest] > max(3, place.width / 10):
        return np.zeros(regions.shape, bool)
    return ndimage.binary_dilation(regions == regions[nearest], iterations=_GROWN)


def _failed(component):
    """Keep the light where a source was detected, and say that it was not deblended."""
    return replace(component, flags=component.flags | Flag.NOT_DEBLENDED)


def _moved(old, new, place, damped):
    """Return the new component, or one half the way to it, and how much it is changed."""
    light = (old.light + new.light) / 2 if damped else new.light
    footprint = (old.light != 0) | (light != 0)
    return replace(new, light=light), _rms(((light - old.light) / place.noise)[footprint])
