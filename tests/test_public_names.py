"""What a user may import is a list that only grows on purpose."""

import pytest

import astrodeblend


def test_the_public_names():
    assert sorted(astrodeblend.__all__) == ["Deblended", "Deblender", "Scene", "__version__"]


@pytest.mark.parametrize("name", astrodeblend.__all__)
def test_each_name_is_there(name):
    assert name in dir(astrodeblend)
    assert getattr(astrodeblend, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'astrodeblend' has no attribute 'Deblneder'"):
        _ = astrodeblend.Deblneder
