"""Sentences and tables of a comparison, for the page and for the terminal."""

from detectors.comparison.result import Compared, Comparison, RealTest
from detectors.comparison.sensitivity import Row, Share
from detectors.evaluation.report_text import interval, value
from detectors.evaluation.results import nothing_to_compare
from detectors.metrics.bootstrap import Interval
from detectors.training.calibration import normals_for
from pipeline.utils.repeated import repeated
from pipeline.utils.text_table import table

# Kinds with fewer samples than this get a remark: the interval of half of them spans 60 %.
FEW = 5


def rate(share: float) -> str:
    """A rate in percent; one decimal below 10 %, where false-alarm rates are."""
    digits = 1 if 0 < share < 0.0995 and abs(share * 100 - round(share * 100)) > 0.05 else 0
    return f"{100 * share:.{digits}f} %"


def interval_percent(share: Share) -> str:
    """The interval of a share, as `12–54 %`."""
    return range_percent(share.interval)


def range_percent(pair: Interval) -> str:
    """An interval of rates, as `12–54 %`."""
    return f"{100 * pair[0]:.0f}–{100 * pair[1]:.0f} %"


def seconds(time: float) -> str:
    """A duration with two significant digits below ten seconds."""
    if time < 1:
        return f"{1000 * time:.0f} ms" if time >= 0.01 else f"{1000 * time:.1f} ms"
    return f"{time:.1f} s" if time < 10 else f"{time:,.0f} s"


def headline(found: Comparison) -> str:
    """The recommendation in two sentences: which detector and why, and what it does."""
    best, kinds = found.chosen, len(found.rows_in("kind"))
    auroc = value(best.sensitivity.auroc)
    if best.sensitivity.auroc_interval:
        auroc += f" (95 % interval {interval(best.sensitivity.auroc_interval)})"
    reason = {
        "only": "it is the only one compared, with an image AUROC of",
        "auroc": "it has the highest image AUROC,",
        "share": "of the detectors with the best image AUROC it finds most. Its AUROC is",
        "cost": "of the detectors with the best image AUROC that find as much it is the fastest. "
        "Its AUROC is",
    }[found.recommendation.decided_by]
    return (
        f"Take {best.name}: {reason} {auroc} as the mean over {kinds} kind{'s' * (kinds != 1)} of "
        f"synthetic anomalies. At its threshold it finds {rate(best.sensitivity.share)} of them, "
        f"in {seconds(best.seconds_per_image)} per image."
    )


def cautions(found: Comparison) -> list[str]:
    """What limits the answer: few normals, overlapping intervals, what synthetics cannot show."""
    held, normals = found.held, len(found.held.normal_ids)
    lines = []
    if reviews := found.version.get("reviews"):
        lines.append(
            f"The {reviews['rejected']} samples that people rejected in a review were left out; "
            f"the {reviews['unsure']} that are unsure or disputed are judged like the others."
        )
    if drift := found.version.get("drift"):
        lines.append(f"{drift[0].upper()}{drift[1:]}.")
    if found.smallest_rate > found.false_alarms:
        lines.append(
            f"{normals} held-out normal{'s' * (normals != 1)} cannot promise "
            f"{rate(found.false_alarms)} false alarms: the smallest rate that they can promise is "
            f"1/{normals + 1} = {rate(found.smallest_rate)}. The thresholds lie above all of them; "
            f"{rate(found.false_alarms)} takes {normals_for(found.false_alarms)} of them."
        )
    reach = found.chosen.sensitivity.auroc_interval
    if reach and reach[0] <= 0.5:
        lines.append(
            f"The interval of {found.chosen.name} reaches 0.5, the AUROC of random scores: it is "
            "not shown to tell these anomalies from normals. Hold out more images, or use a larger "
            "profile."
        )
    if reach and reach[0] == reach[1]:
        lines.append(
            f"{found.chosen.name} ranks every held-out image correctly, which makes its interval "
            "empty: with few images that is no proof of a perfect detector."
        )
    aside = [f"{one.name} ({one.set_aside})" for one in found.detectors if one.set_aside]
    if aside:
        lines.append(
            "Not all detectors were cross-fitted alike, so held-out normals of "
            f"{', '.join(aside)} could not be used."
        )
    if found.recommendation.uncertain:
        names = ", ".join(found.recommendation.uncertain)
        lines.append(
            f"The difference from {names} is within the 95 % interval: more held-out images could "
            "turn the order."
        )
    kinds = found.rows_in("kind")
    few = [row.words for row in kinds if len(row.samples) < FEW]
    if few:
        which = "every kind" if len(few) == len(kinds) else ", ".join(few)
        lines.append(f"Fewer than {FEW} samples of {which}: see the intervals.")
    alarming = [
        one.name for one in found.detectors if controls(one, found).found
        and controls(one, found).interval[0] > max(found.false_alarms, one.sensitivity.promised)
    ]  # fmt: skip
    if alarming:
        lines.append(
            f"{', '.join(alarming)}: more alarms on controls than on normals. Such a detector sees "
            "traces of editing, so its shares are too high."
        )
    if not held.anomalies < len(held.sample_ids):
        lines.append("The version holds out no controls, so traces of editing cannot be ruled out.")
    lines.append(
        "Synthetic anomalies show what an inspection would catch of these kinds. They do not "
        "represent every defect of a production line."
    )
    return lines


def controls(one: Compared, found: Comparison) -> Share:
    """Alarms of a detector on all controls."""
    cells = [one.sensitivity.cells[row.key] for row in found.rows_in("control")]
    return Share(sum(cell.found for cell in cells), sum(cell.of for cell in cells))


def as_text(found: Comparison) -> str:
    """The comparison for a terminal: recommendation, detectors, matrix, controls, real test."""
    lines = [headline(found), *(f"note: {line}" for line in cautions(found)[:-1]), ""]
    lines.append(table(
        ("detector", "AUROC", "95 %", "found", "false alarms", "95 %", "per image", "training"),
        [
            (
                one.name, value(one.sensitivity.auroc),
                interval(one.sensitivity.auroc_interval), rate(one.sensitivity.share),
                rate(one.sensitivity.promised), range_percent(one.sensitivity.promised_interval),
                seconds(one.seconds_per_image),
                seconds(one.training_seconds),
            )
            for one in found.detectors
        ],
    ))  # fmt: skip
    titles = {"kind": "found, by kind", "rule": "found, by rule", "control": "alarms on controls"}
    for group, title in titles.items():
        rows = found.rows_in(group)
        if rows:
            lines += ["", _matrix(title, rows, found)]
    if found.real:
        lines += ["", "Real test split, opened after the recommendation:"]
        lines.append(table(
            ("detector", "AUROC", "95 %", "found", "false alarms"),
            [(name, *_real(row)) for name, row in found.real.items()],
        ))  # fmt: skip
        if why := one_class_real(found):
            lines.append(f"note: {why}")
    lines += [""] * bool(found.left_out)
    left_out = repeated(((one.name, one.why) for one in found.left_out), "detectors")
    lines += [f"left out: {line}" for line in left_out]
    return "\n".join(lines)


def _matrix(title: str, rows: list[Row], found: Comparison) -> str:
    """One row per kind or rule, one column per detector."""
    return table(
        (title, "samples", *(one.name for one in found.detectors)),
        [
            (row.words, len(row.samples), *(_cell(one, row) for one in found.detectors))
            for row in rows
        ],
    )


def _cell(one: Compared, row: Row) -> str:
    cell = one.sensitivity.cells[row.key]
    return f"{100 * cell.share:.0f} % ({interval_percent(cell).removesuffix(' %')})"


def one_class_real(found: Comparison) -> str:
    """Why the real test split gives no AUROC; empty where it gives one."""
    # All detectors are measured on the same images.
    row = next(iter((found.real or {}).values()), None)
    return nothing_to_compare(row.false_alarms.of, row.found.of) if row else ""


def counted(share: Share) -> str:
    """`3 of 5`, or words where there is nothing to count."""
    return f"{share.found} of {share.of}" if share.of else "no image"


def _real(row: RealTest) -> tuple[str, ...]:
    return (
        "none" if row.auroc is None else value(row.auroc), interval(row.auroc_interval),
        counted(row.found), counted(row.false_alarms),
    )  # fmt: skip
