"""The Dockerfile keeps its rules.  There may be no Docker engine where this runs, so its text is what is checked."""

from __future__ import annotations

import re

import pytest

from tests.docker.files import DOCKER, ROOT, Instruction, stages

STAGES = stages((DOCKER / "Dockerfile").read_text(encoding="utf-8"))
BUILD, FINAL = STAGES[0], STAGES[-1]


def of(stage: list[Instruction], keyword: str) -> list[Instruction]:
    return [instruction for instruction in stage if instruction.keyword == keyword]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_starts_from_a_pinned_base(stage: list[Instruction]) -> None:
    """A tag with version and distribution: what is built next month is what is built today."""
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+( AS \w+)?", stage[0].arguments)


def test_the_build_makes_wheels_and_the_image_only_installs_them() -> None:
    """Nothing is downloaded into the final image, and no build tool is in it."""
    assert len(STAGES) == 2
    (install,) = [run for run in of(FINAL, "RUN") if "pip " in run.arguments]
    assert "--no-index" in install.arguments
    assert not re.search(r"apt-get|npm|gcc|curl", " ".join(run.arguments for run in of(FINAL, "RUN")))


def test_the_container_does_not_run_as_root() -> None:
    """The user is numeric, which a scheduler's "run as non-root" rule can verify, and nothing runs after it as root."""
    (user,) = of(FINAL, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.arguments)
    assert all(run in FINAL[: FINAL.index(user)] for run in of(FINAL, "RUN"))


def test_commands_are_in_exec_form_so_that_signals_reach_python() -> None:
    """In shell form, `sh` would be process 1 and would keep SIGTERM to itself."""
    assert of(FINAL, "ENTRYPOINT")[0].argv == ["python", "-m"]
    assert of(FINAL, "CMD")[0].argv == ["lb"]
    assert of(FINAL, "STOPSIGNAL")[0].arguments == "SIGTERM"


def test_the_health_check_runs_the_script_that_the_image_has() -> None:
    """The script is copied to where the check looks for it, readable whatever the umask of the checkout was."""
    (check,) = of(FINAL, "HEALTHCHECK")
    assert check.argv[0] == "python"
    assert [copy.arguments for copy in of(FINAL, "COPY")] == [f"--chmod=0644 docker/healthcheck.py {check.argv[-1]}"]


def test_output_is_not_held_back() -> None:
    """A log line is there when it is written, also through the engine's pipe."""
    assert any("PYTHONUNBUFFERED=1" in env.arguments for env in of(FINAL, "ENV"))


def sources() -> list[str]:
    found = []
    for stage in STAGES:
        for copy in of(stage, "COPY"):
            *names, _ = copy.arguments.split()
            found += [name for name in names if not name.startswith("--")]
    return found


def test_all_that_is_copied_exists_and_is_in_the_build_context() -> None:
    """.dockerignore lets through what the Dockerfile copies, and nothing else."""
    let_through = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    assert set(sources()) == let_through
    assert [name for name in sources() if not (ROOT / name).exists()] == []


def test_the_wheel_has_what_it_is_built_from() -> None:
    """Each package and each file that pyproject.toml names for the build is copied into the build stage."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    hook = project["tool"]["hatch"]["build"]["hooks"]["custom"]["path"]
    needed = {*packages, hook, project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    assert needed <= set(sources())
