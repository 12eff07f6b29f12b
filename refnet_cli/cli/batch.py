"""refnet batch."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from refnet_cli.cli.options import (
    FILE,
    OVERWRITE,
    PREDICT,
    QUIET,
    TASK_LISTS,
    OptionsCommand,
    check_output,
    field_options,
    print_paths,
    read_config,
)
from refnet_cli.cli.outcomes import Follow, noun_for, print_json, short_names
from refnet_cli.cli.terminal import ProgressBar, on_stop, set_level
from refnet_cli.cli.usage import StrictGroup, refuse_removed
from refnet_cli.errors import ConfigError
from refnet_cli.system.words import count

LOG = logging.getLogger(__name__)


@click.group("batch", cls=StrictGroup, short_help="Map many scenes, here or on a cluster.")
def batch_group() -> None:
    """Map many scenes, on this machine or a cluster: plan tasks, run them, merge blocks.

    A batch can be interrupted at any time. The same command continues with the tasks that are not done.

    \b
    refnet batch plan scenes.csv -o tasks.jsonl
    refnet batch run tasks.jsonl --workers 2
    refnet batch merge tasks.jsonl       (only after plan --blocks)
    refnet batch status tasks.jsonl
    """


@batch_group.command("plan", cls=OptionsCommand)
@click.argument("scenes", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("-o", "--output", type=FILE, help="File of tasks to write, one line of JSON per task.  [default: stdout]")
@click.option(
    "--optical",
    metavar="TEMPLATE",
    help="Template of the optical files, if the list has no column optical; or none, if no scene has any.",
)
@click.option("--sar", metavar="TEMPLATE", help="The same for SAR, such as '{parent}/s1.tif'; or none.")
@click.option(
    "--season",
    metavar="TEMPLATE",
    help="The same for scenes of several dates, such as 'places/{name}'; see refnet predict --season.",
)
@click.option("--map", "map_", metavar="TEMPLATE", help="The same for the map to write, such as 'maps/{id}.tif'.")
@click.option(
    "--also",
    multiple=True,
    metavar="KIND[=TEMPLATE]",
    help="Further output of each scene, see refnet predict --output; can be given several times.",
)
@click.option(
    "--blocks",
    type=int,
    metavar="PIXELS",
    help="Divide each map into blocks of this side, a multiple of 512, such as 8192, for refnet batch merge.",
)
@click.option("-0", "--null", is_flag=True, help="The list consists of paths that end with a zero byte (find -print0).")
@click.option("--config", type=FILE, help="TOML file with any of the options below; the command line takes precedence.")
@QUIET
@field_options(PREDICT, without=["optical", "sar", "season", "output"])
def batch_plan(
    scenes: Path,
    output: Path | None,
    map_: str | None,
    also: tuple[str, ...],
    blocks: int | None,
    null: bool,
    config: Path | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Make tasks from a list of scenes.

    SCENES is one of these; - reads it from stdin:

    \b
    a CSV table  with the columns optical, sar and output; others are fields
    STAC items   an ItemCollection, as pystac-client writes it
    paths        of optical files, one per line; with --optical none of SAR
                 files, with --sar none too of seasons

    Paths in the list are relative to its folder, those of templates to the working directory. Fields in templates are
    the columns, a STAC item's id and assets, and of the optical file its path, name, stem (name without .tif), parent
    (path of the folder) and folder (name of the folder).

    A scene of one sensor has an empty cell in the column of the other. A scene of several dates has a column season
    instead of optical and sar. The columns combine and cloud_mask replace --combine and --cloud-mask for a scene.

    \b
    refnet batch plan scenes.csv -o tasks.jsonl --also preview --also areas
    refnet batch plan items.json --optical '{B02},{B03},{B04},{B08}' --sar '{vv},{vh}' --map 'maps/{id}.tif'
    find . -name s2.tif | refnet batch plan - --sar '{parent}/s1.tif' --map '{parent}/lulc.tif'
    """
    from refnet_cli.batch.plan import plan
    from refnet_cli.batch.scene_list import read_list, read_scenes
    from refnet_cli.batch.templates import Templates
    from refnet_cli.prediction.options import PredictOptions
    from refnet_cli.system.atomic import write_text_atomic

    set_level(quiet)
    refuse_removed("--also", {}, also)
    options = read_config(PredictOptions, config) if config else {}
    for name in ("optical", "sar", "season", "output"):
        if name in options:
            raise ConfigError(f"{config} has {name}, which differs between scenes. Pass a template instead.")
    outputs = options.pop("outputs", ())
    templates = Templates(given.pop("optical"), given.pop("sar"), map_, also or outputs, given.pop("season"))
    options |= {name: value for name, value in given.items() if value is not None}
    if output is not None:
        read = [scenes, config, *(options.get(name) for name in ("weights", "grid", "zones"))]
        inputs = [path for path in read if isinstance(path, Path) and str(path) != "-"]
        remedy = (
            "Pass -o tasks.jsonl for the file of tasks, and name the maps with --map, such as --map '{folder}.tif'."
        )
        check_output(output, TASK_LISTS, inputs, given["overwrite"], remedy)
    text, folder, guessed = read_list(None if str(scenes) == "-" else scenes, sys.stdin, null)
    if guessed:
        LOG.warning(f"{scenes} is not UTF-8 and was read as {guessed}. If names are wrong, save it as UTF-8.")
    listed = read_scenes(text, folder, null, templates.listed)
    tasks = list(plan(listed, templates, options, folder, blocks))
    lines = "".join(f"{task.to_line()}\n" for task in tasks)
    if output is None:
        click.echo(lines, nl=False)
        return
    write_text_atomic(output, lines)
    LOG.info(count(len(tasks), "task"))
    click.echo(output)


@batch_group.command("run")
@click.argument("tasks", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--index", type=int, default=0, show_default=True, help="Number of the part to run, from 0.")
@click.option("--of", type=int, default=1, show_default=True, help="Number of parts into which the tasks are divided.")
@click.option("--workers", type=int, help="Number of processes.")
@click.option("--dask", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler, such as tcp://host:8786.")
@click.option("--device", help="Device: auto, cpu, cuda or cuda:N. Replaces the tasks' own.")
@click.option("--max-memory", help="Most memory of each process, such as 4G. Replaces the tasks' own.")
@click.option(
    "--overwrite",
    is_flag=True,
    default=None,
    help="Replace existing files that refnet did not write, and maps of other versions of refnet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON to a terminal too.")
@QUIET
@click.option("--as-worker", is_flag=True, hidden=True, help="Report failures in the outcomes only.")
def batch_run(
    tasks: Path,
    index: int,
    of: int,
    workers: int | None,
    dask: str | None,
    as_json: bool,
    quiet: bool,
    as_worker: bool,
    **given: Any,
) -> None:
    """Run the tasks that are not done.

    Each outcome is a line on stderr and, unless stdout is a terminal, a line of JSON on stdout: id, output, status
    (done, skipped, failed), code (the exit code of refnet predict), message. A failure does not stop the other tasks.
    A task that fails with code 74 or 75 is tried three times. The exit code is 1 if any task failed.

    With -, tasks are read from stdin. Each runs once, as soon as it is read.

    \b
    refnet batch run tasks.jsonl --workers 2
    seq 0 3 | xargs -P 2 -I{} refnet batch run tasks.jsonl --index {} --of 4
    refnet batch run tasks.jsonl --index $SLURM_ARRAY_TASK_ID --of $SLURM_ARRAY_TASK_COUNT
    """  # fmt: skip
    overrides = {name: value for name, value in given.items() if value is not None}
    if not 0 <= index < of:
        raise click.UsageError(f"--index {index} is out of range: --of {of} parts have the numbers 0 to {of - 1}.")
    if workers is not None and (workers < 1 or dask):
        raise click.UsageError("--workers takes a number from 1, and cannot be combined with --dask.")
    if str(tasks) == "-" and (of > 1 or workers or dask):
        raise click.UsageError("--index, --of, --workers and --dask need a file of tasks, not stdin.")
    set_level(quiet)
    if as_worker:
        _run_as_worker(overrides)
    elif str(tasks) == "-":
        from refnet_cli.batch.run import run_lines

        follow = Follow("scene", None, as_json)
        follow(run_lines(sys.stdin, overrides))
        follow.finish()
    else:
        _run(tasks, index, of, workers, dask, overrides, as_json, quiet)


def _run_as_worker(overrides: dict[str, Any]) -> None:
    """Run tasks from stdin for another process, which shows the outcomes."""
    from refnet_cli.batch.run import run_lines
    from refnet_cli.batch.workers import end_with_parent

    on_stop(lambda: "")
    end_with_parent()
    for outcome in run_lines(sys.stdin, overrides):
        print_json(outcome)


def _run(
    file: Path, index: int, of: int, workers: int | None, dask: str | None, overrides: dict[str, Any], as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Run one part of the tasks in a file."""
    from refnet_cli.batch.run import run_here, share
    from refnet_cli.batch.task_list import read_tasks

    tasks = share(read_tasks(file), index, of)
    follow = Follow(noun_for(tasks), tasks, as_json)
    with ProgressBar(f"{noun_for(tasks)}s", quiet) as bar:
        if dask:
            from refnet_cli.batch.clusters import run_on_dask

            outcomes = run_on_dask(tasks, dask, overrides)
        elif workers:
            from refnet_cli.batch.workers import run_in_workers

            outcomes = run_in_workers(tasks, workers, overrides)
        else:
            outcomes = run_here(tasks, overrides, progress=partial(follow.show_tiles, bar))
        follow(outcomes, bar)
    follow.finish()


@batch_group.command("merge")
@click.argument("tasks", type=FILE)
@OVERWRITE
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON to a terminal too.")
@QUIET
def batch_merge(tasks: Path, overwrite: bool | None, as_json: bool, quiet: bool) -> None:
    """Merge the blocks of each map whose blocks are all done.

    The maps and their further outputs are those of a single run. Outcomes are printed as by refnet batch run. The exit
    code is 1 if any map could not be made. Afterwards the blocks, in a folder next to each map, can be removed.
    """
    from refnet_cli.batch.mosaic import blocks_by_map, merge_maps
    from refnet_cli.batch.task_list import read_tasks

    set_level(quiet)
    planned = read_tasks(tasks)
    maps = [replace(blocks[0], block=None) for blocks in blocks_by_map(planned)]
    follow = Follow("map", maps, as_json)
    with ProgressBar("blocks", quiet) as bar:
        follow(merge_maps(planned, bool(overwrite), bar))
    follow.finish()


@batch_group.command("status", short_help="Show what is done, missing and failed.")
@click.argument("tasks", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print numbers, missing outputs and failures as JSON.")
@click.option("-0", "--null", is_flag=True, help="End paths with a zero byte, for xargs -0.")
@QUIET
def batch_status(tasks: Path, as_json: bool, null: bool, quiet: bool) -> None:
    """Print the paths of missing outputs, the number of finished tasks, and the reasons of failures.

    The reason of a failure is in a file next to the output, such as lulc.tif.failed.json, until the output is made. The
    exit code is 1 while any output is missing.
    """
    from refnet_cli.batch.failures import read_failure
    from refnet_cli.batch.finished import missing
    from refnet_cli.batch.task_list import read_tasks

    set_level(quiet)
    planned = read_tasks(tasks)
    left = [task.path for task in missing(planned)]
    failures = {str(path): failure for path in left if (failure := read_failure(path))}
    done, names = len(planned) - len(left), short_names(planned)
    if as_json:
        about = {"failed": {path: asdict(failure) for path, failure in failures.items()}}
        numbers = {"tasks": len(planned), "done": done}
        click.echo(json.dumps(numbers | {"missing": list(map(str, left))} | about, indent=2))
    else:
        print_paths(map(str, left), null)
    for path, failure in failures.items():
        LOG.warning(f"{names[path]} failed, code {failure.code}: {failure.message}")
    not_run = len(left) - len(failures)
    parts = [f"{done} of {count(len(planned), noun_for(planned))} done"]
    parts += [f"{len(failures)} failed"] * bool(failures) + [f"{not_run} to run"] * bool(not_run)
    LOG.info(", ".join(parts))
    if left:
        raise SystemExit(1)
