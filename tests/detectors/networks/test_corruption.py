"""Settings that DeSTSeg and SemRec share: what `auto` means, and what is said when it is less."""

from pathlib import Path

import pytest

from detectors.models.destseg.model import DestSegSettings
from detectors.models.semrec.model import SemRecSettings
from detectors.networks.corruption import CorruptionSettings
from detectors.registry import configure
from pipeline.errors import UserError

BOTH = pytest.mark.parametrize("settings", [DestSegSettings, SemRecSettings])


@BOTH
def test_textures_are_used_when_there_are_some(settings: type[CorruptionSettings]) -> None:
    given = settings(textures=Path("dtd"))
    assert given.noise_used == "perlin_dtd"
    assert given.notes() == ()


@BOTH
def test_their_absence_is_said_unless_it_is_chosen(settings: type[CorruptionSettings]) -> None:
    assert settings().noise_used == "perlin_self"
    assert "textures" in settings().notes()[0]
    assert settings(noise="perlin_self").notes() == ()
    assert "no effect" in settings(noise="perlin_self", textures=Path("dtd")).notes()[0]


@BOTH
def test_rotations_of_earlier_checkpoints_are_read(settings: type[CorruptionSettings]) -> None:
    assert settings.model_validate({"rotations": True}).rotations == "full"
    assert settings.model_validate({"rotations": False}).rotations == "none"


def test_an_unknown_rotation_is_rejected() -> None:
    with pytest.raises(UserError, match="rotations"):
        configure("semrec", "paper", {"rotations": "half"})


def test_small_profiles_choose_their_noise() -> None:
    for name in ("destseg", "semrec"):
        assert configure(name, "tiny").settings.notes() == ()
