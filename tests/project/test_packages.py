"""What is published: the wheel, the images, the conda recipe and the workflow that releases them."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from refnet_cli.version import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"},
    "arm": {"sys_platform": "linux", "platform_machine": "aarch64", "platform_system": "Linux", "os_name": "posix"},
    "mac": {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin", "os_name": "posix"},
    "windows": {"sys_platform": "win32", "platform_machine": "AMD64", "platform_system": "Windows", "os_name": "nt"},
}
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Names of conda-forge that differ from those of PyPI."""


def required(extra: str, platform: str) -> set[str]:
    """Names of what an extra installs on a platform, extras of ours taken apart."""
    found: set[str] = set()
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate(PLATFORMS[platform]):
            continue
        if requirement.name == PROJECT["name"]:
            found |= {name for inner in requirement.extras for name in required(inner, platform)}
        else:
            found.add(requirement.name)
    return found


@pytest.mark.parametrize("platform", PLATFORMS)
def test_extras_ask_only_for_packages_that_the_platform_has(platform: str) -> None:
    everywhere = {"torch", "onnx", "export", "parquet", "fetch", "train", "xarray", "dask"}
    for extra in everywhere:
        assert required(extra, platform) == required(extra, "linux")
    gpu = required("gpu", platform)
    # One of the two, never both: they bring the same module.
    assert len(gpu & {"onnxruntime", "onnxruntime-gpu"}) == 1
    assert ("onnxruntime-gpu" in gpu) == (platform in ("linux", "windows"))
    assert ("fla-core" in gpu) == (platform in ("linux", "arm"))
    assert ("mamba-ssm" in required("mamba", platform)) == (platform in ("linux", "arm"))


def test_only_the_extras_for_gpus_need_them() -> None:
    gpus = {"fla-core", "mamba-ssm", "onnxruntime-gpu", "triton"}
    for extra in PROJECT["optional-dependencies"]:
        if extra not in ("gpu", "mamba"):
            assert not required(extra, "linux") & gpus, extra
    assert not {Requirement(text).name for text in PROJECT["dependencies"]} & gpus


@pytest.mark.long
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_wheel_holds_the_program_and_its_weights_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"refnet_cli-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        for name in ("refnet-base.safetensors", "refnet-base.onnx"):
            assert archive.read(f"refnet_cli/_weights/{name}") == (ROOT / "weights" / name).read_bytes()
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "refnet_cli"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert held - {"refnet_cli/_weights/refnet-base.safetensors", "refnet_cli/_weights/refnet-base.onnx"} == ours


def instructions() -> list[tuple[str, str]]:
    """Name and argument of each instruction of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines.splitlines() if line.strip()]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """For each stage of the Dockerfile, what it is made from and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for name, argument in instructions():
        if name == "FROM":
            base, _, stage = argument.split()
            found[stage] = base, []
        elif found:
            list(found.values())[-1][1].append((name, argument))
    return found


def chain(stage: str) -> list[tuple[str, str]]:
    """Return the instructions of a stage and of those that it is made from."""
    base, own = stages()[stage]
    return (chain(base) if base in stages() else []) + own


@pytest.mark.parametrize("target", ["cpu", "onnx", "cuda"])
def test_an_image_runs_refnet_in_data_as_a_user_without_rights(target: str) -> None:
    found = chain(target)
    assert [argument for name, argument in found if name == "USER"][-1] == "1000:1000"
    assert [argument for name, argument in found if name == "WORKDIR"][-1] == "/data"
    assert [argument for name, argument in found if name == "ENTRYPOINT"] == ['["refnet"]']
    assert [argument for name, argument in found if name == "COPY"] == [
        f"--from={target}-environment /opt/refnet /opt/refnet"
    ]
    assert list(stages())[-1] == "cpu"  # what a build without --target makes


def test_the_images_get_what_they_copy() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = set()
    for name, argument in stages()["wheel"][1]:
        if name == "COPY":
            copied |= set(argument.split()[:-1])
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_the_dockerfile_has_no_lint() -> None:
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_cluster_image_copies_what_is_there_and_its_scripts_parse() -> None:
    text = (ROOT / "packaging" / "apptainer" / "refnet.def").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", text, re.DOTALL | re.MULTILINE))
    for line in sections["files"].split("\n"):
        if line.strip():
            source, target = line.split()
            assert (ROOT / source).exists()
            assert target == f"/src/{source}"
    for name in ("post", "environment", "runscript", "test"):
        assert subprocess.run(["sh", "-n"], input=sections[name], text=True).returncode == 0, name
    extras = re.findall(r"^    extras=(.+)$", sections["arguments"], re.MULTILINE)[0]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_conda_recipe_requires_what_the_package_does() -> None:
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == __version__
    assert recipe["build"]["python"]["entry_points"] == [
        f"{name} = {place}" for name, place in PROJECT["scripts"].items()
    ]
    extras = PROJECT["optional-dependencies"]

    def named(texts: list[str]) -> dict[str, str]:
        needed = [Requirement(text) for text in texts if not text.startswith(PROJECT["name"])]
        return {CONDA_NAMES.get(one.name, one.name): str(one.specifier) for one in needed}

    def stated(lines: list[str]) -> dict[str, str]:
        return {line.split()[0]: line.split()[1] for line in lines if not line.startswith("python ")}

    assert stated(recipe["requirements"]["run"]) == named(
        [*PROJECT["dependencies"], *extras["torch"], *extras["fetch"]]
    )
    others = named([text for name in ("onnx", "export", "parquet", "train", "xarray", "dask") for text in extras[name]])
    assert stated(recipe["requirements"]["run_constraints"]) == others


def steps_of(workflow: str) -> dict[str, str]:
    """Return the scripts of a workflow by the names of their steps."""
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text(encoding="utf-8"))["jobs"]
    return {step["name"]: step["run"] for job in jobs.values() for step in job["steps"] if {"name", "run"} <= set(step)}


@pytest.mark.parametrize(("tag", "passes"), [(f"v{__version__}", True), ("v0.0.1", False), (__version__, False)])
def test_a_release_needs_the_tag_of_its_version(tag: str, passes: bool) -> None:
    script = steps_of("release.yml")["The tag is the version, and the changelog has a section of it"]
    given = os.environ | {"GITHUB_REF_NAME": tag}
    done = subprocess.run(["bash", "-e", "-c", script], cwd=ROOT, env=given, capture_output=True, text=True)
    assert (done.returncode == 0) == passes, done.stderr


def test_the_readme_on_pypi_has_no_links_into_the_checkout(tmp_path: Path) -> None:
    script = steps_of("release.yml")["The README on PyPI links to this tag"]
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    given = {"GITHUB_REPOSITORY": "owner/name", "GITHUB_REF_NAME": "v1"}
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=os.environ | given, check=True)
    links = re.findall(r"\]\(([^)]+)\)", (tmp_path / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 20
    assert all(link.startswith("https://") for link in links)
    assert "https://raw.githubusercontent.com/owner/name/v1/docs/pictures/overview.png" in links
    assert "https://github.com/owner/name/blob/v1/docs/how-to/install.md" in links


def test_the_notes_of_a_release_are_the_section_of_the_changelog(tmp_path: Path) -> None:
    script = steps_of("release.yml")["The release, with the changelog's section, the packages and the site"]
    (line,) = (line for line in script.splitlines() if line.startswith("awk "))
    sections = "# C", "## 1.1.0 - day", "new", "### Added", "- it", "## 1.0.0 - day", "old"
    (tmp_path / "CHANGELOG.md").write_text("\n\n".join(sections))
    subprocess.run(["bash", "-e", "-c", f"version=1.1.0\n{line}"], cwd=tmp_path, check=True)
    assert (tmp_path / "notes.md").read_text().split() == ["new", "###", "Added", "-", "it"]


RELEASED = os.environ | {
    "GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": "owner/name", "GITHUB_REF_NAME": "v1",
}  # fmt: skip


def run_step(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = steps_of("release.yml")[name]
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=RELEASED, capture_output=True, text=True)


def copy_of(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


@pytest.mark.parametrize(("address", "passes"), [("maintainers@refnet.invalid", False), ("", False), ("a@b.org", True)])
def test_a_release_needs_an_address(address: str, passes: bool, tmp_path: Path) -> None:
    metadata = "integrations/qgis/refnet/metadata.txt"
    copy_of(tmp_path, metadata)
    text = (tmp_path / metadata).read_text(encoding="utf-8")
    (tmp_path / metadata).write_text(re.sub("^email=.*$", f"email={address}", text, flags=re.M), encoding="utf-8")
    assert (run_step("No placeholder is left", tmp_path).returncode == 0) == passes


def test_a_release_names_its_repository(tmp_path: Path) -> None:
    metadata = "integrations/qgis/refnet/metadata.txt"
    copy_of(tmp_path, metadata, "pyproject.toml")
    assert run_step("The package and the plugin name this repository", tmp_path).returncode == 0
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project.pop("urls")["Changelog"] == "https://git.example/owner/name/blob/v1/CHANGELOG.md"
    assert project == PROJECT
    read = configparser.ConfigParser()
    read.read_string((tmp_path / metadata).read_text(encoding="utf-8"))
    assert read["general"]["repository"] == "https://git.example/owner/name"
    assert read["general"]["tracker"] == "https://git.example/owner/name/issues"


def test_the_recipe_of_a_release_has_the_checksum_of_the_sdist(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    copy_of(tmp_path, "packaging/conda/recipe/recipe.yaml")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "x.tar.gz").write_bytes(b"sdist")
    done = run_step("The recipe for conda-forge has the checksum of the sdist", tmp_path)
    assert done.returncode == 0, done.stderr
    recipe = yaml.safe_load((tmp_path / "extras" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["sha256"] == hashlib.sha256(b"sdist").hexdigest()
    assert recipe["about"]["homepage"] == "https://git.example/owner/name"
