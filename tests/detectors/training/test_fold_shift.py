"""How much lower the fit of all scores: by images of the validation split that no fit has seen."""

import numpy as np

from detectors.training.fold_shift import fold_shift


def both(by_VP: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What two fits say that score higher by that much, give or take half a unit."""
    higher_VP = np.array(by_VP)
    whole_VP = np.arange(higher_VP.size).reshape(higher_VP.shape) ** 2.0
    folds_FVP = np.stack([whole_VP + higher_VP - 0.5, whole_VP + higher_VP + 0.5])
    return whole_VP, folds_FVP, np.ones((2, len(higher_VP)), bool)


def test_an_equal_difference_of_all_images_is_taken_off() -> None:
    np.testing.assert_allclose(fold_shift(*both([[2.0, 0.3]] * 3)), [-2.0, -0.3])


def test_images_that_disagree_take_off_less_and_an_image_that_was_seen_changes_nothing() -> None:
    shift_P = fold_shift(*both([[1.0, 0.6], [0.9, 0.6], [0.8, 0.6], [0.7, 0.6], [1.1, 9.0]]))
    # The fourth of five is below their true median in four of five cases.
    np.testing.assert_allclose(shift_P, [-0.8, -0.6])


def test_nothing_is_added() -> None:
    np.testing.assert_array_equal(fold_shift(*both([[-1.0, -0.1]] * 4)), [0, 0])


def test_only_fits_that_have_seen_an_images_neighbours_count() -> None:
    whole_VP = np.zeros((3, 1))
    folds_FVP = np.array([[[1.0], [9.0], [9.0]], [[9.0], [1.0], [9.0]]])
    fresh_FV = np.array([[True, False, False], [False, True, False]])
    # The third image is left out: neither fit can be compared on it.
    np.testing.assert_allclose(fold_shift(whole_VP, folds_FVP, fresh_FV), [-1.0])


def test_a_single_image_says_nothing() -> None:
    nothing = fold_shift(np.zeros((1, 2)), np.ones((2, 1, 2)), np.ones((2, 1), bool))
    np.testing.assert_array_equal(nothing, [0, 0])
