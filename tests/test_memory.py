from pathlib import Path

import pytest

import viewfinder.memory
from viewfinder.memory import available_memory

KIB = 1024


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the system's files: 8,000 KiB are available, and no container is limited."""
    for name in ("INFO", "LIMIT", "USED", "STATISTICS"):
        monkeypatch.setattr(viewfinder.memory, name, tmp_path / name)
    (tmp_path / "INFO").write_text("MemTotal:       16000 kB\nMemFree:         100 kB\nMemAvailable:    8000 kB\n")
    return tmp_path


def limited(machine: Path, limit: str, used: int) -> int | None:
    (machine / "LIMIT").write_text(f"{limit}\n")
    (machine / "USED").write_text(f"{used}\n")
    (machine / "STATISTICS").write_text("anon 100\nfile 500000\ninactive_file 409600\nactive_file 90400\n")
    return available_memory()


def test_without_a_container_the_memory_of_the_machine_is_available(machine: Path) -> None:
    assert available_memory() == 8000 * KIB


def test_a_container_may_take_what_its_limit_leaves(machine: Path) -> None:
    """The system drops 400 KiB of cached files when memory is needed."""
    assert limited(machine, str(5000 * KIB), 2000 * KIB) == 3400 * KIB


def test_a_limit_above_the_memory_of_the_machine_changes_nothing(machine: Path) -> None:
    assert limited(machine, str(50_000 * KIB), 2000 * KIB) == 8000 * KIB


def test_a_container_without_a_limit_has_the_memory_of_the_machine(machine: Path) -> None:
    assert limited(machine, "max", 2000 * KIB) == 8000 * KIB


@pytest.mark.parametrize("text", [None, "MemTotal:       16000 kB\n"])
def test_a_system_that_does_not_tell_has_no_amount(text: str | None, machine: Path) -> None:
    (machine / "INFO").unlink() if text is None else (machine / "INFO").write_text(text)
    assert available_memory() is None
