"""Presets: which kinds of edits are made, and in which order they take turns."""

from pipeline.edits.settings import EditSettings
from pipeline.kinds import names

PRESETS = {
    "full": names(lambda kind: not kind.control and not kind.composite),
    # One random object, Inpaint Anything's *remove*, as the source method.
    "paper": ("missing",),
}
# The paper's turns where there is a filler: *remove* seven times in ten, *fill* three times.
PROMPTED_PAPER = ("missing", "missing", "wrong_type") * 3 + ("missing",)


def kinds_of(settings: EditSettings, fills: bool = False) -> tuple[str, ...]:
    """The kinds that change the meaning, in the order in which they take turns.

    `fills` says that a filler is configured; then the paper's list names its kinds repeatedly.
    """
    if settings.kinds is None and settings.preset == "paper" and fills:
        return PROMPTED_PAPER
    return settings.kinds or PRESETS[settings.preset]
