"""What is shipped: a wheel that migrates by itself, a README that tells the truth, a demo that ends well."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer

from syncd.cli import app
from syncd.credentials import generate_key
from syncd.store.database import head
from tests.process import command, environment

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_the_migrations_and_the_templates(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "syncd/_migrations/env.py",
        "syncd/_migrations/versions/0001_schema.py",
        "syncd/web/templates/overview.html",
        "syncd/web/templates/live.js",
    } <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_an_installed_wheel_migrates(wheel: Path, tmp_path: Path) -> None:
    """From the wheel's own content, away from the checkout."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    env = environment(PYTHONPATH=str(tmp_path / "site"), SYNCD_DATABASE__URL=f"sqlite+aiosqlite:///{tmp_path}/new.db")
    asked = (
        f"import sys, syncd; assert syncd.__file__.startswith({str(tmp_path)!r}); "
        "sys.argv = ['syncd', 'migrate']; import syncd.cli; syncd.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"schema {head()} made" in done.stdout


def test_every_command_that_the_readme_prints_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    code = "\n".join(re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", readme, re.MULTILINE | re.DOTALL))
    used = set(re.findall(r"(?:^|[|&;(/] *)syncd ([a-z][a-z-]+)", code, re.MULTILINE))
    assert used
    assert used <= known


async def test_the_demo_ends_well_and_says_what_it_must(tmp_path: Path) -> None:
    """And leaves alone whatever the environment names: somebody's real database, real vendors, a real key."""
    theirs = environment(
        SYNCD_DATABASE__URL=f"sqlite+aiosqlite:///{tmp_path}/theirs.db",
        SYNCD_SECRET_KEYS=generate_key(),
        SYNCD_SOURCES__SLACK__BASE_URL="http://127.0.0.1:9/api/",
        SYNCD_SOURCES__GMAIL__ENABLED="false",
    )
    code, out, err = await command(theirs, "demo", "--keep", str(tmp_path / "kept"))
    assert (code, err) == (0, "")
    assert not (tmp_path / "theirs.db").exists()
    for words in (
        "failed: slack of northwind: auth: users.list: token_revoked",
        "Nothing new at the vendors: 0 rows written",
        "Slack: the latest thread",
        "Gmail: the latest mails",
        "syncd connections add --help",
    ):
        assert words in out
    assert (tmp_path / "kept" / "syncd.db").exists()
