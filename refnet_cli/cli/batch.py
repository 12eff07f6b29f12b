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
    """Map many scenes: plan them, run them anywhere and again, put blocks together.

    \b
    refnet batch plan scenes.csv -o tasks.jsonl
    refnet batch run tasks.jsonl --workers 2
    refnet batch merge tasks.jsonl       (only after plan --blocks)
    refnet batch status tasks.jsonl
    """


@batch_group.command("plan", cls=OptionsCommand)
@click.argument("scenes", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("-o", "--output", type=FILE, help="File of tasks to write, a line of JSON each.  [default: stdout]")
@click.option(
    "--optical",
    metavar="TEMPLATE",
    help="Where the list has no column optical: a text with fields; or none, if no scene has optical files.",
)
@click.option("--sar", metavar="TEMPLATE", help="The same for SAR, as '{parent}/s1.tif', or none.")
@click.option(
    "--season",
    metavar="TEMPLATE",
    help="The same for scenes of several dates, as 'places/{name}': a table or folder, as --season of refnet predict.",
)
@click.option("--map", "map_", metavar="TEMPLATE", help="The same for the map to write, as 'maps/{id}.tif'.")
@click.option(
    "--also",
    multiple=True,
    metavar="KIND[=TEMPLATE]",
    help="Further outputs of each scene, as --output of refnet predict; may be given several times.",
)
@click.option(
    "--blocks",
    type=int,
    metavar="PIXELS",
    help="Cut maps into blocks of this side, a multiple of 512, as 8192; refnet batch merge puts them together.",
)
@click.option("-0", "--null", is_flag=True, help="The list is of paths that end with a zero byte, as of find -print0.")
@click.option("--config", type=FILE, help="TOML file with any of the options below; the command line wins.")
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
    """Turn a list of scenes into tasks.

    SCENES is a CSV table with columns optical, sar and output (and any others, as fields for templates), a STAC
    ItemCollection, or a list of paths of optical files (of SAR files with --optical none, of seasons with --sar none
    too), a line each; - reads it from stdin. Paths in it are relative to it; those of templates to the working
    directory. In templates {field} is a column, an asset or id of a STAC item, or of the optical file its path, name,
    stem (the name without .tif), parent (the folder's path) and folder (its name).
    A scene of one sensor has an empty cell in the column of the other; its fields are those of the file that it has.
    A scene of several dates has a column season in place of optical and sar. Columns combine and cloud_mask hold for a
    scene in place of --combine and --cloud-mask.

    \b
    refnet batch plan scenes.csv -o tasks.jsonl --also preview --also areas
    refnet batch plan items.json --optical '{B02},{B03},{B04},{B08}' --sar '{vv},{vh}' --map 'maps/{id}.tif'
    find . -name s2.tif | refnet batch plan - --sar '{parent}/s1.tif' --map '{parent}/lulc.tif'
    """
    from refnet_cli.batch.plan import Templates, plan, read_list, read_scenes
    from refnet_cli.prediction.options import PredictOptions
    from refnet_cli.system.atomic import write_text_atomic

    set_level(quiet)
    refuse_removed("--also", {}, also)
    options = read_config(PredictOptions, config) if config else {}
    for name in ("optical", "sar", "season", "output"):
        if name in options:
            raise ConfigError(f"{config} names {name}, which each scene has its own of: give it as a template.")
    outputs = options.pop("outputs", ())
    templates = Templates(given.pop("optical"), given.pop("sar"), map_, also or outputs, given.pop("season"))
    options |= {name: value for name, value in given.items() if value is not None}
    if output is not None:
        read = [scenes, config, *(options.get(name) for name in ("weights", "grid", "zones"))]
        inputs = [path for path in read if isinstance(path, Path) and str(path) != "-"]
        remedy = "Give -o tasks.jsonl for the list of tasks; --map names the maps, as --map '{folder}.tif'."
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
@click.option("--index", type=int, default=0, show_default=True, help="Which of the parts to run, from 0.")
@click.option("--of", type=int, default=1, show_default=True, help="In how many parts the tasks are dealt out.")
@click.option("--workers", type=int, help="Run in this many processes at once.")
@click.option("--dask", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler, as tcp://host:8786.")
@click.option("--device", help="In place of the tasks' own: auto, cpu, cuda or cuda:N.")
@click.option("--max-memory", help="In place of the tasks' own: memory that each process may take, as 4G.")
@click.option(
    "--overwrite",
    is_flag=True,
    default=None,
    help="Replace existing files that refnet did not write, and make again what another version of refnet made.",
)
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON where stdout is a terminal too.")
@QUIET
@click.option("--as-worker", is_flag=True, hidden=True, help="Report failures only in the outcomes.")
def batch_run(
    tasks: Path, index: int, of: int, workers: int | None, dask: str | None, as_json: bool, quiet: bool,
    as_worker: bool, **given: Any,
) -> None:
    """Run tasks, but for those that are done.

    Each ends with a line on stderr, and where stdout is not a terminal with a line of JSON on stdout: id, output,
    status (done, skipped, failed), code as the exit code of refnet predict, message. Failures do not stop the others;
    those with code 74 or 75 are tried again, three times in all. Exit code 1 if any failed. With - tasks are read from
    stdin and run as they come, each once.

    \b
    refnet batch run tasks.jsonl --workers 2
    seq 0 3 | xargs -P 2 -I{} refnet batch run tasks.jsonl --index {} --of 4
    refnet batch run tasks.jsonl --index $SLURM_ARRAY_TASK_ID --of $SLURM_ARRAY_TASK_COUNT
    """  # fmt: skip
    overrides = {name: value for name, value in given.items() if value is not None}
    if not 0 <= index < of:
        raise click.UsageError(f"--index {index} is none of {of} parts, which are numbered from 0.")
    if workers is not None and (workers < 1 or dask):
        raise click.UsageError("--workers takes a number from 1, and not together with --dask.")
    if str(tasks) == "-" and (of > 1 or workers or dask):
        raise click.UsageError("Tasks from stdin run as they come: --index, --of, --workers and --dask want a file.")
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
    """Run tasks from stdin for another process, which shows what comes of them."""
    from refnet_cli.batch.run import end_with_parent, run_lines

    on_stop(lambda: "")
    end_with_parent()
    for outcome in run_lines(sys.stdin, overrides):
        print_json(outcome)


def _run(
    file: Path, index: int, of: int, workers: int | None, dask: str | None, overrides: dict[str, Any], as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Run a share of the tasks in a file."""
    from refnet_cli.batch import run as batch
    from refnet_cli.batch.task import read_tasks

    tasks = batch.share(read_tasks(file), index, of)
    follow = Follow(noun_for(tasks), tasks, as_json)
    with ProgressBar(f"{noun_for(tasks)}s", quiet) as bar:
        if dask:
            outcomes = batch.run_on_dask(tasks, dask, overrides)
        elif workers:
            outcomes = batch.run_in_workers(tasks, workers, overrides)
        else:
            outcomes = batch.run_here(tasks, overrides, progress=partial(follow.show_tiles, bar))
        follow(outcomes, bar)
    follow.finish()


@batch_group.command("merge")
@click.argument("tasks", type=FILE)
@OVERWRITE
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON where stdout is a terminal too.")
@QUIET
def batch_merge(tasks: Path, overwrite: bool | None, as_json: bool, quiet: bool) -> None:
    """Put the blocks of maps together, where all are done.

    The maps and their further outputs are those of a single run. Each map ends with a line, and with a line of JSON,
    as in refnet batch run; exit code 1 if any could not be made. The blocks, in a folder next to each map, may be
    removed afterwards.
    """
    from refnet_cli.batch.mosaic import blocks_by_map
    from refnet_cli.batch.run import merge_maps
    from refnet_cli.batch.task import read_tasks

    set_level(quiet)
    planned = read_tasks(tasks)
    maps = [replace(blocks[0], block=None) for blocks in blocks_by_map(planned)]
    follow = Follow("map", maps, as_json)
    with ProgressBar("blocks", quiet) as bar:
        follow(merge_maps(planned, bool(overwrite), bar))
    follow.finish()


@batch_group.command("status", short_help="Say what is done, missing and failed.")
@click.argument("tasks", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print numbers, missing outputs and reasons as JSON.")
@click.option("-0", "--null", is_flag=True, help="End paths with a zero byte, for xargs -0.")
@QUIET
def batch_status(tasks: Path, as_json: bool, null: bool, quiet: bool) -> None:
    """Tell how many tasks are done, print the paths of the outputs that are missing, and say why they failed.

    The reason of a failure is kept next to the output, as lulc.tif.failed.json, until the output is made. Exit code 1
    while any is missing.
    """
    from refnet_cli.batch.failures import read_failure
    from refnet_cli.batch.run import missing
    from refnet_cli.batch.task import read_tasks

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
