"""What people call their folders: words for good, defective, mask, training and test.

The guard of plain folders, the layout `ok_ng` and the synonyms of `good` in all other layouts read
names here and nowhere else. A name counts only when it is understood as a whole: `good_parts`,
`NG-02` and `TestNormal` do, `crack_free_tiles` and `normal_map` do not. Case, accents, Unicode
form, separators and numbers do not matter.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.records import Split

Role: TypeAlias = Literal["normal", "abnormal", "mask"]

# English, German, French, Spanish, Italian, Portuguese, Dutch, Turkish, Polish, Russian, Chinese,
# Japanese and Korean, without accents (`_plain` removes them). Phrases are joined by `_`.
_NORMAL = """
    good goods ok okay normal normals nominal healthy intact undamaged flawless golden clean
    perfect pass passed accepted conform conforming defect_free defectfree no_defect no_defects
    non_defective nondefective not_defective without_defect without_defects no_anomaly
    no_anomalies anomaly_free gut gute gutteil gutteile io i_o in_ordnung fehlerfrei einwandfrei
    bon bons bonne bonnes conforme conformes sain sains saine saines sans_defaut sans_defauts
    bueno buenos buena buenas correcto correctos sano sanos sin_defecto sin_defectos buono buoni
    buona buone conformi normale normali sani senza_difetti bom boa boas sem_defeito
    sem_defeitos goed saglam hatasiz dobry dobre норма норм нормальные нормальный годные годен
    годный хорошие без_дефектов 正常 正常品 正常样本 正常图像 良品 良好 合格 合格品 好 好品
    无缺陷 無缺陷 ok品 正常画像 良品画像 정상 정상품 양품 합격 합격품
"""
_ABNORMAL = """
    ng nok ko not_ok no_ok bad not_good no_good nogood defect defects defective defectives def
    anomaly anomalies anomalous anomal abnormal abnormals abnormality abnormalities fail failed
    failure failures faulty fault faults flaw flaws flawed reject rejects rejected scrap
    nonconforming non_conforming unhealthy nio n_i_o n_io ausschuss schlecht schlechtteil
    schlechtteile fehler fehlerhaft fehlerhafte defekt defekte anomalie anomalien nicht_ok
    nicht_in_ordnung schaden defaut defauts mauvais mauvaise mauvaises defectueux defectueuse
    defectueuses non_conforme non_conformes rebut rebuts defecto defectos defectuoso defectuosos
    defectuosa defectuosas malo malos mala malas anomalia anomalias rechazo rechazos fallo
    fallos difetto difetti difettoso difettosi difettosa difettose scarto scarti guasto
    non_conformi anormal anormale anormali anormales defeito defeitos defeituoso ruim fout
    afkeur hatali kusurlu wada wady wadliwe брак дефект дефекты дефектные дефектный аномалия
    аномалии 不良 不良品 不良样本 缺陷 缺陷品 异常 異常 异常样本 異常品 異常画像 不良画像 不合格
    不合格品 次品 坏 坏品 瑕疵 故障 欠陥 欠陥品 불량 불량품 결함 이상 비정상 불합격 ng品
"""
# Kinds of defects: what `test` holds beside `good`, and what no good product is called after.
_DEFECTS = """
    crack cracks cracked scratch scratches scratched dent dents dented broken damage damages
    damaged contamination contaminated burr burrs rust rusty corrosion stain stains bent
    deformed deformation chipped riss risse kratzer delle dellen beule beulen bruch
    verschmutzung rost rayure rayures fissure fissures aranazo aranazos grieta grietas rotura
    graffio graffi crepa crepe ammaccatura risco riscos trinca trincas трещина трещины царапина
    царапины 划痕 劃痕 裂纹 裂紋 裂缝 污渍 破损 破損 凹痕 傷 キズ きず 割れ ひび 汚れ 스크래치
    균열 긁힘 찍힘
"""
_MASK = """
    mask masks masking ground_truth ground_truths groundtruth groundtruths gt gts label labels
    annotation annotations segmentation segmentations seg segmap segmaps maske masken
    beschriftung masque masques verite_terrain mascara mascaras maschera maschere etiqueta
    etiquetas maskeler maski маска маски разметка 掩码 掩膜 掩模 标注 標註 标签 標籤 真值 マスク
    正解 ラベル 마스크 라벨 정답
"""
_SPLITS: dict[Split, str] = {
    "train": """train training trn trainset trainingsdaten entrainement entrenamiento
        addestramento treino 训练 訓練 训练集 学習 훈련 학습""",
    "validation": """val valid validation validierung validacion validazione 验证 驗證 验证集
        検証 검증""",
    "test": """test tests testing tst testset testdaten prueba pruebas teste 测试 測試 测试集
        テスト 테스트 評価""",
}
# Words that change nothing; the first are also names of folders that hold the ones with a meaning.
_AROUND = """
    image images img imgs pic pics picture pictures photo photos bild bilder data dataset 图片 图像
    画像 数据 이미지
"""
_FILLERS = """
    sample samples part parts piece pieces product products teil teile set dir folder type kind
    class large small big minor major front back top bottom side left right view cam camera
    logical structural surface raw cropped png jpg jpeg bmp 样本
"""
# Endings of mask files: `000_mask.png`, `000-GT.bmp`.
_MASK_ENDING = re.compile(
    r"[ _.\-](masks?|gt|labels?|seg|ground_?truth|maske|masque|mascara|掩码|マスク|마스크)$"
)
# Of two such folders one holds defects, but which one differs from data set to data set.
_OPPOSITES = ({"positive", "negative"}, {"yes", "no"}, {"true", "false"})
# Words per phrase at most.
_LONGEST = 3


@dataclass(frozen=True, slots=True)
class FolderName:
    """What a folder's name says: `role` and `split`, each None where it says nothing.

    `defect_type` is True where the role is abnormal by a kind of defect alone (`crack`).
    """

    role: Role | None = None
    split: Split | None = None
    defect_type: bool = False


def read_name(name: str) -> FolderName:
    """The meaning of a folder's name; empty unless every word of it is known and none disagrees."""
    words, found = _plain(name).split("_"), set[str]()
    while words:
        for length in range(min(_LONGEST, len(words)), 0, -1):
            meaning = _MEANINGS.get("_".join(words[:length]))
            if meaning or (length == 1 and words[0].isdecimal()):
                found.add(meaning or "filler")
                words = words[length:]
                break
        else:
            return FolderName()
    splits = [split for split in _SPLITS if split in found]
    split = splits[0] if len(splits) == 1 else None
    # Masks of good and of defective images are masks.
    if "mask" in found:
        return FolderName("mask", split)
    bad = found & {"abnormal", "defect"}
    if "normal" in found:
        return FolderName(None if bad else "normal", split)
    return FolderName("abnormal" if bad else None, split, bad == {"defect"})


def is_only_around(name: str) -> bool:
    """True for `images`, `Data` and the like: folders that hold the ones with a meaning."""
    return all(_MEANINGS.get(word) == "around" for word in _plain(name).split("_"))


def are_opposites(names: Iterable[str]) -> bool:
    """True for `Positive` and `Negative`, and the like, among the names."""
    plain = {_plain(name) for name in names}
    return any(pair <= plain for pair in _OPPOSITES)


def is_good(name: str) -> bool:
    """True for a synonym of `good` in any case, such as `OK`, `Normal`, `Gutteile` or `良品`."""
    return read_name(name).role == "normal"


def same_name(name: str) -> str:
    """A key that names share which differ in case or Unicode form (NFC, NFD) only."""
    return unicodedata.normalize("NFC", name).casefold()


def mask_stem(stem: str) -> str:
    """The `same_name` of the image that a mask belongs to: without `_mask`, `_gt`, `-label`."""
    return _MASK_ENDING.sub("", same_name(stem))


def _plain(name: str) -> str:
    """A name in lower case, without accents, its words separated by single `_`."""
    # Where a new word begins inside: GroundTruth, OKParts, NG01.
    name = re.sub(r"([a-z])([A-Z])|([A-Z]+)([A-Z][a-z])", r"\1\3_\2\4", name)
    name = re.sub(r"(?<=[^\W\d_])(?=\d)", "_", name)
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    # Latin accents go; the marks of other scripts change the letter, so NFC brings them back.
    bare = re.sub(r"(?<=[a-z])[\u0300-\u036f]+", "", decomposed).replace("\u0131", "i")
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", bare)).strip("_")


def _meanings() -> dict[str, str]:
    """Word or phrase, as `_plain` writes it -> its meaning."""
    lists = {
        "around": _AROUND,
        "filler": _FILLERS,
        "defect": _DEFECTS,
        "abnormal": _ABNORMAL,
        "normal": _NORMAL,
    }
    lists |= {"mask": _MASK} | _SPLITS
    return {_plain(word): meaning for meaning, words in lists.items() for word in words.split()}


_MEANINGS = _meanings()
