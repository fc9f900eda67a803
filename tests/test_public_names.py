"""What a user may import is a list that only grows on purpose."""

import pytest

import astrodeblend

NAMES = ["Deblended", "Deblender", "Flag", "Scene", "__version__", "decode_flags"]


def test_the_public_names():
    assert sorted(astrodeblend.__all__) == NAMES
    assert dir(astrodeblend) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there(name):
    assert getattr(astrodeblend, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'astrodeblend' has no attribute 'Deblneder'"):
        _ = astrodeblend.Deblneder
