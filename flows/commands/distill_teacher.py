"""`anomalysmith distill-teacher`: a teacher for EfficientAD and its kin, out of any backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import (
    DONE,
    INTERRUPTED,
    SKIPPED,
    Json,
    answer,
    leave,
    quiet_output,
    remark,
)
from pipeline.errors import UserError

if TYPE_CHECKING:
    from detectors.distillation.distill import Origin, Recipe
    from detectors.networks.backbones import Extractor
    from detectors.training.progress import Watcher

NAMED = 5
"""Skipped files that are named on the screen; all are in the answer of --json and in the card."""


def distill_teacher_command(
    images: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Pictures to learn from, at any depth; the paper's are ImageNet's.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The teacher, a .safetensors file.", show_default=False),
    ],
    pdn: Annotated[
        str, typer.Option(metavar="small|medium", help="The network that learns.")
    ] = "small",
    backbone: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The network that is imitated: torchvision:NAME, timm:NAME, resnet18 (the trunk) "
            "or bundled-teacher.",
        ),
    ] = "torchvision:wide_resnet101_2",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Its weights: a file, or an entry of `weights list`.  [default: the entry that "
            "goes with the backbone]",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Its layers.  [default: layer2,layer3; for timm those of stride 8 and 16]",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Optimiser steps.")] = 60_000,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures per step.")] = 16,
    size: Annotated[
        int,
        typer.Option(metavar="PX", help="Side of its picture; the backbone sees twice that."),
    ] = 256,
    statistics: Annotated[
        int,
        typer.Option(metavar="N", min=2, help="Pictures that its channels are measured on."),
    ] = 10_000,
    rate: Annotated[float, typer.Option(metavar="R", help="Learning rate of Adam.")] = 1e-4,
    schedule: Annotated[
        str,
        typer.Option(
            metavar="constant|cosine", help="How the rate goes on; cosine is for short runs."
        ),
    ] = "constant",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Root of every choice.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where it runs.")] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|tf32|bf16", help="Number format of the products.")
    ] = "auto",
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Processes that read pictures.")
    ] = 0,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the loss for TensorBoard there.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Distil a teacher for EfficientAD, PUAD and LA-EAD from a backbone; for `train --teacher`.

    The recipe is EfficientAD's: 60 000 steps of 16 pictures, for hours on a GPU. The same command
    goes on after a stop. Files that cannot be read are left out and named; exit code 3 then.
    """
    from detectors.distillation.distill import distil, plan_of, recipe_of
    from detectors.distillation.images import PictureFolder
    from detectors.training.precision import resolve
    from pipeline.utils.files import require_writable

    with quiet_output(as_json):
        if out.suffix != ".safetensors":
            raise UserError(f"--out is a .safetensors file, got {out}")
        recipe = recipe_of(
            pdn=pdn, steps=steps, batch_size=batch_size, size=size, statistics=statistics,
            rate=rate, schedule=schedule, seed=seed,
        )  # fmt: skip
        compute = resolve(device, precision)
        pictures = PictureFolder.open(images, recipe.size)
        require_writable(out.parent)
        source, origin = _backbone(backbone, weights, layers)
        if dry_run:
            content = plan_of(recipe, source, pictures, origin) | _preview(recipe, source, out)
            content |= {"device": compute.describe()}
        else:
            try:
                done = distil(
                    recipe, source, pictures, out, compute=compute, origin=origin,
                    workers=workers, watcher=_watcher(tensorboard),
                )  # fmt: skip
            except KeyboardInterrupt:
                remark("\ninterrupted: the last saved state is kept, the same command goes on")
                leave(INTERRUPTED)
            content = {
                "teacher": str(done.path), "pdn": recipe.pdn, "backbone": source.name,
                "layers": list(source.layers), "steps": done.steps,
                "final_loss": done.final_loss, "seconds": round(done.seconds, 3),
                "pictures": len(pictures), "skipped": dict(done.skipped), "cached": done.cached,
                "licence": origin.licence, "terms": origin.terms,
            }  # fmt: skip
    answer(content, as_json, _preview_text(content) if dry_run else _text(content))
    leave(SKIPPED if content.get("skipped") else DONE)


def _backbone(name: str, weights: str | None, layers: str | None) -> tuple["Extractor", "Origin"]:
    """The backbone with its weights, and what is known of them."""
    from detectors.distillation.card import licence_inside
    from detectors.distillation.distill import Origin
    from detectors.networks.backbones import KNOWN_WEIGHTS, extractor
    from pipeline.models.weights import store as registry

    path = Path(weights) if weights is not None else None
    entry = weights if weights is not None else KNOWN_WEIGHTS.get(name)
    known = None
    if path is None or not path.is_file():
        if entry is None:
            raise UserError(
                f"name the --weights of {name}; the registry has them for "
                f"{', '.join(KNOWN_WEIGHTS)}"
            )
        if entry not in {one.name for one in registry.entries()}:
            raise UserError(
                f"--weights is a file or an entry of `weights list`; there is no {entry}"
            )
        path, known = registry.require(entry), registry.entry(entry)
    wanted = [layer.strip() for layer in (layers or "").split(",") if layer.strip()]
    source = extractor(name, path, wanted)
    if known is None:
        return source, Origin(path.name, registry.sha256(path), licence_inside(path))
    return source, Origin(known.name, registry.sha256(path), known.licence, known.terms)


def _watcher(tensorboard: Path | None) -> "Watcher":
    from flows.commands.progress_bars import StepBar

    if tensorboard is None:
        return StepBar()
    from detectors.training.tensorboard import Board

    folder = tensorboard

    class OnBoard(StepBar):
        """The bar, and its numbers for TensorBoard."""

        board: Board | None = None

        def step(self, done: int, losses: Mapping[str, float]) -> None:
            super().step(done, losses)
            if losses and self.board is None:
                self.board = Board(folder, first_step=done)
            if self.board is not None:
                self.board.scalars(done, "distillation", losses)

        def end(self) -> None:
            super().end()
            if self.board is not None:
                self.board.close()

    return OnBoard()


def _preview(recipe: "Recipe", source: "Extractor", out: Path) -> dict[str, Any]:
    """What a dry run adds to the plan."""
    from detectors.distillation.card import state_file
    from detectors.networks.backbones import channels_of

    state = "finished" if out.exists() else "begun" if state_file(out).exists() else "nothing"
    maps = channels_of(source, 2 * recipe.size)
    return {"dry_run": True, "out": str(out), "there": state, "maps": maps}


def _preview_text(facts: Mapping[str, Any]) -> str:
    maps = [
        f"{layer} {channels} x {cells} x {cells}"
        for layer, (channels, cells) in zip(facts["layers"], facts["maps"], strict=True)
    ]
    lines = [
        f"would distil {facts['recipe']['pdn']} from {facts['backbone']}, {facts['device']}",
        f"  layers    {', '.join(maps)}",
        f"  weights   {facts['weights']}, licence {facts['licence']}",
        f"  pictures  {facts['pictures']}",
        f"  to        {facts['out']} (there: {facts['there']})",
    ]
    lines += [f"    {key} = {value}" for key, value in facts["recipe"].items()]
    return "\n".join(lines)


def _text(facts: Mapping[str, Any]) -> str:
    begin = "there already" if facts["cached"] else f"{facts['seconds']:.1f} s"
    skipped = facts["skipped"]
    words = {"small": "--set teacher=efficientad-s --set pdn=small", "medium": ""}[facts["pdn"]]
    lines = [
        f"teacher  {facts['teacher']} ({begin})",
        f"  {facts['steps']} steps on {facts['pictures']} pictures, loss {facts['final_loss']:.4f} "
        "(1: knows nothing)",
        f"  licence of the backbone's weights: {facts['licence']}",
        *([f"  {facts['terms']}"] if facts["terms"] else []),
        *(f"  skipped {reason}" for reason in list(skipped.values())[:NAMED]),
        *([f"  … and {len(skipped) - NAMED} more skipped"] if len(skipped) > NAMED else []),
        "next     anomalysmith train --detector efficientad "
        f"--teacher {facts['teacher']} {words} …",
    ]
    return "\n".join(lines)
