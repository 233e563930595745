"""Development tasks: `nox` runs the checks, `nox --list` names them all."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
# A missing interpreter is reported and skipped, also where CI is set in the environment.
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint", "types", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHON_VERSIONS = nox.project.python_versions(PYPROJECT)


def requirements(*groups: str) -> tuple[str, ...]:
    """Return what the dependency groups ask for, so that a pip without `--group` can install it."""
    return nox.project.dependency_groups(PYPROJECT, *groups)


# On all cores; whoever is ready first takes over tests of the others.
PYTEST = ("pytest", "-n", "auto", "--dist", "worksteal")


def run_tests(session: nox.Session) -> None:
    """Run the test suite against this checkout, with every optional dependency."""
    session.install("-e", ".[all]", *requirements("test"))
    session.run(*PYTEST, *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """Run all tests on the Python that runs nox."""
    run_tests(session)


@nox.session(python=PYTHON_VERSIONS)
def tests(session: nox.Session) -> None:
    """Run all tests on each supported Python that is present."""
    run_tests(session)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, spelling and the layers of the package."""
    session.install(*requirements("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of package and tests, and that the public interface is fully typed."""
    session.install(".[all]", *requirements("types"))
    session.run("mypy")
    session.run("pyright", "--verifytypes", "asyncsessions", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; `nox -s docs -- serve` shows it while you write."""
    session.install(*requirements("docs"))
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks; `nox -s bench -- --quick` takes two minutes, without peers."""
    is_alone = "--quick" in session.posargs and "--peer" not in " ".join(session.posargs)
    groups = ("bench",) if is_alone else ("bench", "peers")
    session.install(".[all]", *requirements(*groups))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def interop(session: nox.Session) -> None:
    """Run the tests with PraisonAI: its own store beside ours, and ours in its agents and bots."""
    session.install("-e", ".[all]", *requirements("praisonai", "test"))
    session.run(*PYTEST, "tests/interop", "tests/integrations", *session.posargs)
