"""`anomalysmith distill-teacher`: distil a teacher for EfficientAD and its kin from a backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import (
    DONE,
    INTERRUPTED,
    SKIPPED,
    FollowLinks,
    Json,
    exit_with,
    print_note,
    print_result,
    stdout_to_stderr,
)
from pipeline.errors import UserError
from pipeline.utils.repeated import repeated
from pipeline.utils.text_table import table

if TYPE_CHECKING:
    from detectors.distillation.distill import Origin, Recipe
    from detectors.networks.backbones import Extractor
    from detectors.training.progress import Watcher


def distill_teacher_command(
    # What goes in and what comes out.
    images: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder of images, at any depth; the paper uses ImageNet.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Teacher to write (.safetensors).", show_default=False),
    ],
    follow_links: FollowLinks = None,
    # The two networks: the student that becomes the teacher, and the backbone that it imitates.
    pdn: Annotated[
        str,
        typer.Option(
            metavar="small|medium", help="Student network: the patch description network."
        ),
    ] = "small",
    backbone: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Network to distil from: torchvision:NAME, timm:NAME, resnet18 (the trunk) or "
            "bundled-teacher.",
        ),
    ] = "torchvision:wide_resnet101_2",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Weights of the backbone: a file, or an entry of `weights list`.  [default: the "
            "entry for the backbone]",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Layers of the backbone.  [default: layer2,layer3; for timm those of stride 8 "
            "and 16]",
        ),
    ] = None,
    # The schedule; defaults are those of the EfficientAD paper.
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Optimiser steps.")] = 60_000,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images per step.")] = 16,
    size: Annotated[
        int,
        typer.Option(metavar="PX", help="Input size of the student; the backbone gets twice that."),
    ] = 256,
    statistics: Annotated[
        int,
        typer.Option(metavar="N", min=2, help="Images for the mean and deviation of the channels."),
    ] = 10_000,
    rate: Annotated[float, typer.Option(metavar="R", help="Learning rate of Adam.")] = 1e-4,
    schedule: Annotated[
        str,
        typer.Option(
            metavar="constant|cosine", help="Learning rate schedule; cosine suits short runs."
        ),
    ] = "constant",
    # How it is run; none of these changes the recipe.
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Device.")] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|tf32|bf16", help="Precision of matrix products.")
    ] = "auto",
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Processes that read images.")
    ] = 0,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for TensorBoard logs of the loss."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Distil a teacher for EfficientAD, PUAD and LA-EAD from a backbone; for `train --teacher`.

    The recipe is EfficientAD's: 60 000 steps of 16 images, hours on a GPU. After an interruption
    the same command continues. Files that cannot be read are skipped and named, with exit code 3.
    """
    from detectors.distillation.distill import distil, plan_of, recipe_of
    from detectors.distillation.images import DistillationImages
    from detectors.training.precision import resolve
    from pipeline.utils.files import require_writable

    with stdout_to_stderr(as_json):
        # Check everything that is cheap before models are loaded.
        if out.suffix != ".safetensors":
            raise UserError(f"expected --out with a .safetensors file, got {out}")
        # The recipe checks its own values and raises UserError.
        recipe = recipe_of(
            pdn=pdn, steps=steps, batch_size=batch_size, size=size, statistics=statistics,
            rate=rate, schedule=schedule, seed=seed,
        )  # fmt: skip
        compute = resolve(device, precision)
        pictures = DistillationImages.open(images, recipe.size, follow_links)
        # Before hours of training, not after them.
        require_writable(out.parent)
        # The slow part: load the backbone.
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
                print_note("\ninterrupted: the last state is saved, the same command continues")
                exit_with(INTERRUPTED)
            content = {
                "teacher": str(done.path), "pdn": recipe.pdn, "backbone": source.name,
                "layers": list(source.layers), "steps": done.steps,
                "final_loss": done.final_loss, "seconds": round(done.seconds, 3),
                "pictures": len(pictures), "skipped": dict(done.skipped), "cached": done.cached,
                "licence": origin.licence, "terms": origin.terms,
            }  # fmt: skip
    print_result(content, as_json, _preview_text(content) if dry_run else _text(content))
    exit_with(SKIPPED if content.get("skipped") else DONE)


def _backbone(name: str, weights: str | None, layers: str | None) -> tuple["Extractor", "Origin"]:
    """The backbone with its weights, and the name, digest and licence of these."""
    from detectors.distillation.card import licence_inside
    from detectors.distillation.distill import Origin
    from detectors.networks.backbones import KNOWN_WEIGHTS, extractor
    from pipeline.models.weights import store as registry

    # A file wins over an entry of the same name.
    path = Path(weights) if weights is not None else None
    entry = weights if weights is not None else KNOWN_WEIGHTS.get(name)
    known = None
    # No such file: it must be an entry of the registry.
    if path is None or not path.is_file():
        if entry is None:
            raise UserError(
                f"name the --weights of {name}; the registry has them for "
                f"{', '.join(KNOWN_WEIGHTS)}"
            )
        if entry not in {one.name for one in registry.entries()}:
            raise UserError(
                f"expected --weights with a file or an entry of `weights list`, got {entry}"
            )
        path = registry.require(entry, otherwise="name a file with --weights")
        known = registry.entry(entry)
    # An empty list means the default layers of the backbone.
    wanted = [layer.strip() for layer in (layers or "").split(",") if layer.strip()]
    source = extractor(name, path, wanted)
    # Of the user's own file, only what the file itself states is known.
    if known is None:
        return source, Origin(path.name, registry.sha256(path), licence_inside(path))
    return source, Origin(known.name, registry.sha256(path), known.licence, known.terms)


def _watcher(tensorboard: Path | None) -> "Watcher":
    """The progress bar, with a log for TensorBoard if a folder is named."""
    from flows.commands.progress_bars import StepBar

    if tensorboard is None:
        return StepBar()
    from detectors.training.tensorboard import Board

    # Bound here, as the type checker forgets the test for None inside the class.
    folder = tensorboard

    class OnBoard(StepBar):
        """The bar, and its numbers for TensorBoard."""

        board: Board | None = None

        def step(self, done: int, losses: Mapping[str, float]) -> None:
            super().step(done, losses)
            # Opened with the first numbers, whose step says where a resumed run continues.
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
    """What a dry run adds to the plan: the state of the output and the sizes of feature maps."""
    from detectors.distillation.card import state_file
    from detectors.networks.backbones import channels_of

    # What the same call would find: a teacher, a saved state, or neither.
    state = "finished" if out.exists() else "begun" if state_file(out).exists() else "nothing"
    maps = channels_of(source, 2 * recipe.size)
    return {"dry_run": True, "out": str(out), "there": state, "maps": maps}


def _preview_text(facts: Mapping[str, Any]) -> str:
    """A dry run as text: networks, data, output, then the recipe."""
    # The sizes of the feature maps show whether the layers are of the expected strides.
    maps = [
        f"{layer} {channels} x {cells} x {cells}"
        for layer, (channels, cells) in zip(facts["layers"], facts["maps"], strict=True)
    ]
    rows = [
        ("layers", ", ".join(maps)),
        ("weights", f"{facts['weights']}, licence {facts['licence']}"),
        ("images", facts["pictures"]),
        ("to", f"{facts['out']} (found there: {facts['there']})"),
    ]
    lines = [
        f"would distil {facts['recipe']['pdn']} from {facts['backbone']}, {facts['device']}",
        table(None, rows, "<", indent="  "),
    ]
    lines += [f"    {key} = {value}" for key, value in facts["recipe"].items()]
    return "\n".join(lines)


def _text(facts: Mapping[str, Any]) -> str:
    """A finished distillation as text, with the command that uses the teacher."""
    begin = "finished before" if facts["cached"] else f"{facts['seconds']:.1f} s"
    # The next step, with the options that fit this teacher.
    # The next command must name the size of the network, unless it is the default.
    words = {"small": "--set teacher=efficientad-s --set pdn=small", "medium": ""}[facts["pdn"]]
    lines = [
        f"teacher  {facts['teacher']} ({begin})",
        f"  {facts['steps']} steps on {facts['pictures']} images, loss {facts['final_loss']:.4f} "
        "(1: as good as predicting the mean)",
        f"  licence of the backbone's weights: {facts['licence']}",
        *([f"  {facts['terms']}"] if facts["terms"] else []),
        *(f"  skipped {line}" for line in repeated(facts["skipped"].items())),
        "next     anomalysmith train --detector efficientad "
        f"--teacher {facts['teacher']} {words} …",
    ]
    return "\n".join(lines)
