"""What Checkov minds of the rendered chart: all of it is listed here, with the reason."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.charts import CI, EXAMPLES, template
from tests.live import ROOT, environment

# For the first time, in which its environment is made.
pytestmark = pytest.mark.timeout(900)
PRIVILEGED = r"(rootful|split|userns)-values"
AS_ROOT = r"(rootful|split|userns|vfs)-values"
TEST_POD = r"-test$"


@dataclass(frozen=True)
class Waived:
    """A check that may fail where `place` (`file: resource`) matches."""

    check: str
    place: str
    why: str


WAIVED = (
    Waived("CKV_K8S_8", TEST_POD, "the pod of `helm test` runs once and ends"),
    Waived("CKV_K8S_9", TEST_POD, "the same"),
    Waived(
        "CKV_K8S_11", "", "a limit on CPU slows receiving down and saves nobody; memory has one"
    ),
    Waived("CKV_K8S_15", "", "a version's tag stays what it is, and air-gapped nodes cannot pull"),
    Waived("CKV_K8S_43", "", "the digest is the operator's: `image.digest`"),
    Waived("CKV_K8S_21", "", "the namespace is helm's to say: `helm install --namespace`"),
    Waived("CKV2_K8S_6", "", "`networkPolicy.enabled`: not every cluster's network knows policies"),
    Waived(
        "CKV_K8S_35", "", "URL of Redis, and the token of the test: neither is read from a file"
    ),
    Waived("CKV_K8S_40", "", "1000 is the user of the image, and owns its /data"),
    Waived("CKV_K8S_20", PRIVILEGED, "the API server wants it beside SYS_ADMIN"),
    Waived("CKV_K8S_23", AS_ROOT, "these modes unpack files of all owners"),
    Waived("CKV_K8S_25", AS_ROOT, "exactly the measured capabilities (`worker.mode`)"),
    Waived("CKV_K8S_39", PRIVILEGED, "an overlay is mounted"),
)


@pytest.fixture(scope="module")
def checkov(pytestconfig: pytest.Config) -> Path:
    """Checkov, from its own locked requirements, in an environment of its own.

    It takes a minute to make, and is kept with pytest's cache until the requirements change.
    """
    locked = ROOT / "requirements" / "checkov.txt"
    assert pytestconfig.cache is not None
    directory = pytestconfig.cache.mkdir("checkov")
    python, stamp = directory / "bin" / "python", directory / "tusboat-stamp"
    made_of = f"{sys.version} {hashlib.sha256(locked.read_bytes()).hexdigest()}"
    with (directory / "lock").open("w") as lock:
        # One run at a time makes it; the lock goes with the file.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != made_of:
            stamp.unlink(missing_ok=True)
            subprocess.run([sys.executable, "-m", "venv", directory], check=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--no-input"]
            subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", locked], check=True)
            stamp.write_text(made_of)
    return directory / "bin" / "checkov"


def minded(checkov: Path, directory: Path) -> set[tuple[str, str]]:
    """(check, `file: resource`) of everything that failed, and that something was looked at."""
    looked = ["--directory", directory, "--framework", "kubernetes", "--output", "json"]
    done = subprocess.run(
        [checkov, *looked, "--quiet", "--compact", "--skip-download"],
        env=environment(directory.parent / "home"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    document = json.loads(done.stdout)
    assert document["summary"]["parsing_errors"] == 0
    assert document["summary"]["passed"] > 1000
    return {
        (one["check_id"], f"{Path(one['file_path']).name}: {one['resource']}")
        for one in document["results"]["failed_checks"]
    }


def test_whatever_checkov_minds_is_waived_and_every_waiver_is_needed(
    checkov: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "rendered"
    directory.mkdir()
    for values in (*CI, *EXAMPLES):
        (directory / values.name).write_text(template(values).stdout)
    failed = minded(checkov, directory)
    used = {
        waived
        for waived in WAIVED
        for check, place in failed
        if waived.check == check and re.search(waived.place, place)
    }
    allowed = {
        (check, place)
        for check, place in failed
        if any(one.check == check and re.search(one.place, place) for one in WAIVED)
    }
    assert failed - allowed == set()
    assert set(WAIVED) - used == set()
