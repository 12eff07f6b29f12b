"""refnet train and evaluate."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from refnet_cli.cli.options import (
    FILE,
    FILES,
    FOLDER,
    OVERWRITE,
    PICTURE,
    QUIET,
    WEIGHTS,
    OptionsCommand,
    check_output,
    field_options,
)
from refnet_cli.cli.terminal import (
    SHORT,
    SIGNALS,
    ProgressBar,
    ended_by,
    log_lines,
    log_warnings,
    on_stop,
    report_step,
    set_level,
)
from refnet_cli.cli.text import describe_labels, describe_scores, missing_labels
from refnet_cli.cli.usage import StrictCommand
from refnet_cli.errors import OptionsError, TryAgainError, UnavailableError
from refnet_cli.system.log import context
from refnet_cli.types import Progress

LOG = logging.getLogger(__name__)


def _print_example(command: click.Context, option: click.Parameter, given: bool) -> None:
    """Print a regions file and exit, before missing arguments are reported."""
    if given:
        from refnet_cli.training.example import make_example

        click.echo(make_example(), nl=False)
        command.exit()


@click.command("train", cls=OptionsCommand, short_help="Train weights on labelled scenes.")
@click.argument("regions", type=FILE)
@click.option(
    "--example",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_example,
    help="Print a regions file that explains every setting: refnet train --example > regions.toml",
)
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    help="Folder for weights, checkpoints, tables and pictures.  [required except for --dry-run]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the data: count labelled pixels by class, show how files are read, estimate the time. Writes nothing.",
)
@click.option(
    "--folds",
    help="Cross-validation: for each of these regions ('all', or names with commas between them), train on the others "
    "and score on it. The output folder has a folder for each, and folds.csv with all scores.",
)
@field_options("refnet_cli.training.config:TrainConfig", defaults=False)
@OVERWRITE
@click.option("--json", "as_json", is_flag=True, help="Print the card of the weights, or the dry run, as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Show the evidence for how files are read.")
@click.option("-q", "--quiet", is_flag=True, help="No messages but errors.")
def train_command(
    regions: Path,
    output: Path | None,
    dry_run: bool,
    folds: str | None,
    overwrite: bool | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train on the scenes of a regions file.

    REGIONS is a TOML file with scenes and settings (--example prints one). Paths in it are relative to its folder.
    Options of the command line take precedence:

    \b
    scheme = "esri-io"
    encoder = "resnet18"
    steps = 5000
    [[scenes]]
    optical = "s2.tif"
    sar = "s1.tif"
    labels = "labels.tif"

    The same command resumes an interrupted training from its last checkpoint. SIGTERM and Ctrl-C write a checkpoint
    first. With --folds, finished folds are not trained again. With several GPUs:
    torchrun --nproc-per-node 2 -m refnet_cli train ...
    The tutorial is docs/tutorials/train.md.
    """
    set_level(quiet, verbose)
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output'.")
    if output is not None and output.suffix.lower() in FILES and not output.is_dir():
        raise OptionsError(
            f"{output} would be a folder, but its name is that of a file. Give -o {output.with_suffix('')}. The "
            "weights become a file in it."
        )
    LOG.info(f"reading {regions.name} ...")
    configs = _read_configs(regions, folds, {name: value for name, value in given.items() if value is not None})
    if output is None or dry_run:
        _rehearse(configs, as_json)
        return
    from refnet_cli.cli.train_text import describe_folds, describe_training
    from refnet_cli.training.fit import fit
    from refnet_cli.training.folds import TABLE, fit_folds

    with ProgressBar("steps", quiet) as bar, _Asked() as asked:

        def report(progress: Any) -> None:
            report_step(bar, progress)

        run = output, report, asked, bool(overwrite)
        try:
            made = fit(configs[""], *run) if folds is None else fit_folds(configs, *run)
        except TryAgainError as stopped:
            if not asked():
                raise
            on_stop(stopped.__str__)
            raise SystemExit(ended_by[0]) from stopped
    if isinstance(made, dict):
        log_lines(describe_folds(made))
        click.echo(json.dumps(made, indent=2) if as_json else str(output / TABLE))
    elif made.first:
        log_lines(describe_training(made, configs[""]))
        click.echo(json.dumps(made.card.to_dict(), indent=2) if as_json else str(made.weights))


def _read_configs(regions: Path, folds: str | None, chosen: dict[str, Any]) -> dict[str, Any]:
    """Read what to train: a configuration for each fold, or one by the name of "" where there are no folds."""
    from refnet_cli.training.regions_file import read_folds, read_regions

    if "fold" in chosen:
        chosen.setdefault("split", "region")
        if folds is not None:
            raise OptionsError("--fold holds out one region, --folds each in turn: give one of them.")
    return {"": read_regions(regions, chosen)} if folds is None else read_folds(regions, folds, chosen)


def _rehearse(configs: Mapping[str, Any], as_json: bool) -> None:
    """Print the labelled pixels of each class, and say how files are read and how long it all takes, of each fold."""
    from refnet_cli.cli.train_text import describe_rehearsals
    from refnet_cli.training.split_advice import survey_or_advise
    from refnet_cli.training.survey import count_classes, log_scenes

    found: dict[str, Any] = {}
    timed: list[Any] = []
    for fold, config in configs.items():
        scenes = survey_or_advise(config)
        counts = count_classes(scenes, config)
        if not as_json:
            click.echo("\n".join([*[f"fold {fold}"] * bool(fold), *describe_labels(counts)]))
        with context(**{"fold": fold} if fold else {}):
            if found:  # whose files are those of the first fold
                log_warnings(f"{scene.name}: {warning}" for scene in scenes for warning in scene.warnings)
            else:
                log_scenes(config, scenes)
            log_warnings(missing_labels(counts))
            rehearsal = _time(config, scenes, timed) if timed or not found else None
        timed += [rehearsal] if rehearsal else []
        decided = {scene.name: scene.decided for scene in scenes}
        found[fold] = counts | {"scenes": decided, "time": rehearsal.to_dict() if rehearsal else None}
    log_lines(describe_rehearsals(timed))
    if as_json:
        click.echo(json.dumps(found.get("", found), indent=2))


def _time(config: Any, scenes: Any, before: Sequence[Any]) -> Any:
    """Time a training, or count what that of a further fold will do; None where this machine cannot."""
    from refnet_cli.training.rehearsal import rehearse

    if not before:
        LOG.info("timing two steps ...")
    try:
        return before[0].of(config, scenes) if before else rehearse(config, scenes)
    except (TryAgainError, UnavailableError) as error:
        LOG.warning(f"not timed: {error}")
        return None


class _Asked:
    """Whether a signal asked to end; from the first time that this is asked on, it only asks, instead of ending."""

    def __init__(self) -> None:
        self._polite = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Asked:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __call__(self) -> bool:
        self._polite = True
        return bool(ended_by)

    def _note(self, number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # the second one ends at once
        ended_by.append(SIGNALS[signal.Signals(number)])
        if not self._polite:
            raise SystemExit(ended_by[-1])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@click.command("evaluate", cls=StrictCommand, short_help="Score maps or weights against labels.")
@click.argument("map_", metavar="[MAP]", type=FILE, required=False)
@click.argument("labels", type=FILE, required=False)
@click.option(
    "--scheme",
    help="Class scheme of both files: a name, or a TOML file as for refnet predict.  "
    "[default: the one the map names]",
)
@click.option(
    "--mapping",
    "meanings",
    type=FILE,
    help="TOML file with the meaning of the labels' codes or names: [mapping] or [label_codes] with lines such as 10 = "
    '"Trees" and 255 = 0 for no label; or ignore = [255].',
)
@click.option(
    "--sample",
    is_flag=True,
    help="The labels are a probability sample: pixels of the map drawn at random within each of its classes, or in "
    "all of it. Estimate accuracies and areas with confidence intervals of 95 % (Olofsson et al. 2014).",
)
@click.option("--field", help="Field with the class in a vector file of labels; required if it has several fields.")
@click.option("--layer", help="Layer of a vector file of labels; required if several layers have geometries.")
@click.option(
    "--weights", type=WEIGHTS, help="Score these weights (file or name) on the scenes of --regions, instead of a map."
)
@click.option("--regions", type=FILE, help="Regions file of refnet train; the scores are of its held-out pixels.")
@click.option("--fold", help="With --regions: the region to score.")
@click.option("--device", default="auto", show_default=True, help="With --weights: auto, cpu, cuda or cuda:N.")
@click.option("--plot", type=FILE, help="PNG file for a picture of the confusion matrix.")
@OVERWRITE
@click.option("--json", "as_json", is_flag=True, help="Print the scores and the confusion matrix as JSON.")
@QUIET
def evaluate_command(
    map_: Path | None, labels: Path | None, plot: Path | None, overwrite: bool | None, as_json: bool, quiet: bool,
    **given: Any,
) -> None:
    """Score a class map against reference labels, or weights on labelled scenes.

    Labels are a raster with the codes of the map's class scheme, which is resampled by nearest neighbour, or polygons
    or points (GeoPackage, GeoJSON, Shapefile) with codes or names of classes.

    \b
    refnet evaluate lulc.tif labels.tif
    refnet evaluate lulc.tif worldcover.tif --mapping codes.toml
    refnet evaluate --weights mine.safetensors --regions regions.toml
    """
    of_map, of_weights = (map_, labels), (given["weights"], given["regions"])
    if all(of_map) == all(of_weights) or (any(of_map) and any(of_weights)):
        raise click.UsageError("Pass either MAP and LABELS, or --weights and --regions.")
    check_output(plot, PICTURE, [*of_map, *of_weights, given["meanings"]], overwrite)
    set_level(quiet)
    with ProgressBar("tiles" if all(of_weights) else "rows", quiet, SHORT) as progress:
        found = _score_weights(given, progress) if all(of_weights) else _score_map(map_, labels, given, progress)
    if plot:
        import numpy as np

        from refnet_cli.plots import draw_confusion

        draw_confusion(plot, np.array(found["confusion_matrix"]), list(found["labelled"]))
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(describe_scores(found)))


def _score_map(map_: Any, labels: Any, given: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from refnet_cli.evaluation.evaluate import evaluate

    if given["fold"]:
        raise click.UsageError("--fold is for --regions.")
    chosen = {name: given[name] for name in ("scheme", "sample", "field", "layer", "meanings")}
    return evaluate(map_, labels, **chosen, progress=progress).to_dict()


def _score_weights(given: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from refnet_cli.training.regions_file import read_regions
    from refnet_cli.training.validation import evaluate_weights

    if any(given[name] for name in ("scheme", "sample", "field", "layer", "meanings")):
        raise click.UsageError(
            "--scheme, --mapping, --field, --layer and --sample are for maps. A regions file says what its labels are: "
            "scheme, label_codes, label_field, label_layer."
        )
    options = {"split": "region", "fold": given["fold"]} if given["fold"] else {}
    config = read_regions(given["regions"], options)
    scores, by_scene = evaluate_weights(given["weights"], config, given["device"], progress)
    return scores.to_dict() | {"overall_accuracy_by_scene": by_scene}
