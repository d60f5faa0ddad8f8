"""Names of folders are understood as a whole, in a dozen languages; others are left alone."""

import unicodedata

import pytest

from pipeline.sources.folder_names import FolderName, is_good, mask_stem, read_name, same_name

NAMES_OF_GOOD = """
    good Good OK ok_front Normal NORMAL i.O. IO Gut gutteile bon sans_défauts sin_defectos buoni
    良品 正常 合格 정상 양품 нормальные good_parts no_defects defect_free TestNormal OK-2
"""
NAMES_OF_DEFECTIVE = """
    NG NG01 ng_images nok KO bad not_good n.i.O. Ausschuss Défaut defectuosos difetti 不良品 异常
    불량 брак Anomaly abnormal logical_anomalies
"""
NAMES_OF_DEFECTS = "crack Scratches Kratzer arañazo 划痕 キズ broken_large"
NAMES_OF_MASKS = "mask masks GroundTruth ground_truth gt Labels Maske masque 标注 マスク"
OTHERS = """
    bottle crack_free_tiles normal_map io_board scratch_head face_masks good_bad images 2024-11-03
    label_printer broken_link 瓶子 螺丝 screws4 line_B
"""


@pytest.mark.parametrize("name", NAMES_OF_GOOD.split())
def test_names_of_good_images(name):
    assert is_good(name)
    assert is_good(unicodedata.normalize("NFD", name))


@pytest.mark.parametrize("name", NAMES_OF_DEFECTIVE.split())
def test_names_of_defective_images(name):
    assert read_name(name) == FolderName("abnormal")
    assert read_name(unicodedata.normalize("NFD", name)) == FolderName("abnormal")


@pytest.mark.parametrize("name", NAMES_OF_DEFECTS.split())
def test_kinds_of_defects_are_names_of_defective_images(name):
    assert read_name(name) == FolderName("abnormal", defect_type=True)


@pytest.mark.parametrize("name", NAMES_OF_MASKS.split())
def test_names_of_masks(name):
    assert read_name(name) == FolderName("mask")


@pytest.mark.parametrize("name", OTHERS.split())
def test_other_names_say_nothing(name):
    assert read_name(name) == FolderName()


def test_names_of_splits_may_say_what_is_in_them():
    assert read_name("Training") == FolderName(None, "train")
    assert read_name("val") == FolderName(None, "validation")
    assert read_name("normal_test") == FolderName("normal", "test")
    assert read_name("test_masks") == FolderName("mask", "test")


def test_names_of_mask_files():
    for stem in ("Köln-01_mask", "köln-01_GT", "Köln-01-label", "Köln-01.seg", "Köln-01"):
        assert mask_stem(stem) == same_name("Köln-01")
        assert mask_stem(unicodedata.normalize("NFD", stem)) == same_name("KÖLN-01")
    assert mask_stem("mask") == "mask"
