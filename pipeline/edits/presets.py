"""Presets: which kinds of edits are generated, and the order in which they alternate."""

from pipeline.edits.settings import EditSettings
from pipeline.kinds import names

PRESETS = {
    "full": names(lambda kind: not kind.control and not kind.composite),
    # As in the paper: one random object is removed (*remove* of Inpaint Anything).
    "paper": ("missing",),
}
# The paper's mixture with a generative filler: *remove* seven times in ten, *fill* three times.
PROMPTED_PAPER = ("missing", "missing", "wrong_type") * 3 + ("missing",)


def kinds_of(settings: EditSettings, fills: bool = False) -> tuple[str, ...]:
    """The anomalous kinds in the order in which they alternate; a kind may be listed repeatedly.

    `fills` says that a generative filler is configured; it changes the paper's mixture.
    """
    if settings.kinds is None and settings.preset == "paper" and fills:
        return PROMPTED_PAPER
    return settings.kinds or PRESETS[settings.preset]
