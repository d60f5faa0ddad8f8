"""Part kinds from vectors: what recurs, what differs, what is unsure, and where kinds lie."""

import numpy as np
import pytest

from pipeline.models.part_embedding import FACE, PLAIN, UNITS
from pipeline.part_kinds import kinds as part_kinds
from pipeline.part_kinds.grouping import sized
from pipeline.part_kinds.kinds import UNSURE, Observed, PartKinds

FEATURES = 20
# Far from one another in every dimension, as a nut, a screw and a washer are.
NUT, SCREW, WASHER = np.random.default_rng(5).normal(0, 4, (3, PLAIN + FEATURES))


def seen(kinds: list[np.ndarray], rng: np.random.Generator, centres: object = None) -> Observed:
    """One image with a part of each of these kinds, with unit noise."""
    vectors = np.stack([kind + rng.normal(0, 1, len(kind)) for kind in kinds])
    faces = rng.normal(0, 1, (len(kinds), FACE))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    places = rng.random((len(kinds), 2)) if centres is None else np.array(centres, np.float64)
    return Observed(np.hstack([vectors, faces]).astype(np.float32), places)


def learned(images: int = 20, *more: Observed) -> PartKinds:
    rng = np.random.default_rng(0)
    found = part_kinds.learn(
        [seen([NUT, NUT, SCREW, WASHER], rng) for _ in range(images)] + [*more]
    )
    assert found is not None
    return found


def test_recurring_parts_are_kinds_and_new_images_are_recognised() -> None:
    kinds = learned()
    assert len(kinds) == 3
    new = seen([WASHER, NUT, SCREW, NUT], np.random.default_rng(99))
    washer, nut, screw, other_nut = kinds.recognise(new.vectors_NC).tolist()
    assert nut == other_nut
    assert len({washer, nut, screw}) == 3
    assert UNSURE not in {washer, nut, screw}


def test_only_different_kinds_differ() -> None:
    kinds = learned()
    assert kinds.differ(0, 1)
    assert not kinds.differ(1, 1)
    assert not kinds.differ(0, UNSURE)


def test_a_one_off_and_a_part_between_two_kinds_are_unsure() -> None:
    rng = np.random.default_rng(1)
    kinds = learned(20, seen([NUT, NUT, SCREW, WASHER, NUT + 30], rng))
    assert len(kinds) == 3
    odd = seen([NUT + 30, (NUT + SCREW) / 2], rng)
    assert kinds.recognise(odd.vectors_NC).tolist() == [UNSURE, UNSURE]


def test_equal_parts_under_changing_light_stay_one_kind() -> None:
    """The error that labels equal screws "swapped": lightness drifts far from image to image."""
    rng = np.random.default_rng(2)
    light = np.zeros(PLAIN + FEATURES)
    light[0] = 1
    images = [seen([SCREW + 8 * step / 20 * light] * 4, rng) for step in range(20)]
    kinds = part_kinds.learn(images)
    assert kinds is not None
    assert len(kinds) == 1
    assert kinds.recognise(images[0].vectors_NC).tolist() == [0, 0, 0, 0]


def test_too_few_images_teach_nothing() -> None:
    rng = np.random.default_rng(3)
    few = [seen([NUT, SCREW], rng) for _ in range(part_kinds.LEAST_IMAGES - 1)]
    assert part_kinds.learn(few) is None
    empty = Observed(np.zeros((0, PLAIN + FEATURES + FACE), np.float32), np.zeros((0, 2)))
    assert part_kinds.learn([empty] * 10) is None


def test_a_place_is_unusual_only_where_good_images_never_show_the_kind() -> None:
    rng = np.random.default_rng(4)
    jitter = lambda *at: [at[0] + rng.normal(0, 0.01), at[1] + rng.normal(0, 0.01)]  # noqa: E731
    images = [
        seen([NUT, SCREW], rng, [jitter(0.25, 0.25), rng.uniform(0.1, 0.9, 2)]) for _ in range(30)
    ]
    kinds = part_kinds.learn(images)
    assert kinds is not None
    nut, screw = kinds.recognise(images[0].vectors_NC).tolist()
    # The nut has its compartment; screws lie anywhere.
    assert kinds.has_own_places(nut, 0.2)
    assert not kinds.seen_near(nut, (0.75, 0.75), 0.2)
    assert kinds.seen_near(nut, (0.3, 0.25), 0.2)
    assert not kinds.has_own_places(screw, 0.2)
    assert not kinds.has_own_places(UNSURE, 0.2)


@pytest.mark.parametrize(("factor", "unusual"), [(1.0, False), (0.6, True), (1.5, True)])
def test_a_size_is_unusual_beyond_those_of_good_images(factor: float, unusual: bool) -> None:
    kinds = learned()
    nut = int(kinds.recognise(seen([NUT], np.random.default_rng(6)).vectors_NC)[0])
    middle = float(np.exp(NUT[4] * UNITS[4]))
    spread = np.exp(3 * UNITS[4])
    beyond = {1.0: 1.0, 0.6: 0.6 / spread, 1.5: 1.5 * spread}[factor]
    assert kinds.unusual_size(nut, middle * beyond) == unusual


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([[0.2, 0.1, 0.1]] * 8, 2),  # a bottle and two mouths
        ([[0.1 + n / 100, 0.2 - n / 100] for n in range(9)], 1),  # nearer and farther
        ([[0.1, 0.1]] * 4 + [[0.2, 0.2]] * 4, 1),  # the camera was nearer
    ],
)
def test_parts_that_look_alike_are_two_kinds_where_images_show_two_sizes(
    sizes: list[list[float]], expected: int
) -> None:
    images = np.repeat(np.arange(len(sizes)), [len(one) for one in sizes])
    logs = np.log(np.concatenate(sizes)) + np.random.default_rng(9).normal(0, 0.01, len(images))
    labels = sized(np.zeros(len(images), np.int64), logs, images)
    assert len(np.unique(labels)) == expected


def test_of_two_kinds_that_look_alike_the_size_decides() -> None:
    """Few images: bottle and mouth are neighbours of one another, and size counts for nothing."""
    rng = np.random.default_rng(10)

    def image() -> Observed:
        one = seen([NUT, NUT], rng)
        one.vectors_NC[:, 4] = 0, 6
        return one

    images = [image() for _ in range(6)]
    kinds = part_kinds.learn(images)
    assert kinds is not None
    assert len(kinds) == 2
    # One looks exactly like a mouth that was seen, and has the size of a bottle.
    new = images[0].vectors_NC[[0, 0]]
    new[1, 4] = 6
    small, large = kinds.recognise(new).tolist()
    assert {small, large} == {0, 1}
    middle = float(np.exp(3 * UNITS[4]))
    assert kinds.unusual_size(small, middle)
    assert kinds.unusual_size(large, middle)


def test_a_turn_means_something_where_upright_parts_look_alike() -> None:
    rng = np.random.default_rng(7)
    label, fruit = rng.normal(0, 1, FACE), rng.normal(0, 1, FACE)

    def image(turns: int) -> Observed:
        one = seen([NUT, SCREW], rng)
        turned = np.rot90(fruit.reshape(8, 8), turns).ravel()
        faces = np.stack([label, turned]) + rng.normal(0, 0.1, (2, FACE))
        faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        return Observed(np.hstack([one.vectors_NC[:, :-FACE], faces]), one.centres_N2)

    images = [image(int(rng.integers(4))) for _ in range(20)]
    kinds = part_kinds.learn(images)
    assert kinds is not None
    upright, turned = kinds.recognise(images[0].vectors_NC).tolist()
    assert kinds.turn_is_fixed(upright)
    assert not kinds.turn_is_fixed(turned)


def test_kinds_survive_the_cache() -> None:
    kinds = learned()
    again = part_kinds.unpack(*part_kinds.pack(kinds))
    new = seen([WASHER, NUT, SCREW], np.random.default_rng(8)).vectors_NC
    assert kinds.recognise(new).tolist() == again.recognise(new).tolist()
    assert np.array_equal(kinds.gaps_KK, again.gaps_KK)
    assert (kinds.reach, kinds.images) == (again.reach, again.images)


def test_what_lies_beside_the_product_or_is_rarely_seen_is_no_part_of_it() -> None:
    """A nut on a board with holes (screws here); a patch of the surface in three images of ten."""
    rng = np.random.default_rng(7)

    def image(number: int, product: bool) -> Observed:
        one = seen([NUT, SCREW, SCREW] + [WASHER] * (number % 10 < 3), rng)
        beside_N = np.array([False, True, number % 4 == 0] + [False] * (number % 10 < 3))
        return Observed(one.vectors_NC, one.centres_N2, beside_N, product)

    for product, expected in ((True, [False, True, True]), (False, [False] * 3)):
        kinds = part_kinds.learn([image(number, product) for number in range(20)])
        assert kinds is not None
        nut, hole, patch = kinds.recognise(seen([NUT, SCREW, WASHER], rng).vectors_NC).tolist()
        assert [kinds.is_incidental(kind) for kind in (nut, hole, patch)] == expected
    assert not kinds.is_incidental(UNSURE)
    arrays, facts = part_kinds.pack(kinds)
    assert (part_kinds.unpack(arrays, facts).incidental_K == kinds.incidental_K).all()
