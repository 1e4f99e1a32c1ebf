"""The file with the keys of unattended runs."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tempfile
from pathlib import Path

import pytest

from eraflow.environment import load
from eraflow.errors import CredentialsError, InputError, StorageError
from tests.eraflow.test_home import as_nobody

SECRET = "s3cr3t"


def written(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "eraflow.env"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_the_file_gives_what_the_environment_lacks(tmp_path: Path) -> None:
    path = written(tmp_path, "# keys\n\nNUMERAI_PUBLIC_ID=from-file\n  ; more\nERAFLOW_X=1\nERAFLOW_X=2\n")
    environ = {"NUMERAI_PUBLIC_ID": "from-environment"}
    assert load(path, environ) == ["ERAFLOW_X"]
    assert environ == {"NUMERAI_PUBLIC_ID": "from-environment", "ERAFLOW_X": "2"}


def test_values_are_read_as_systemd_reads_them(tmp_path: Path) -> None:
    lines = {
        "A=plain": "plain",
        "B=": "",
        "C=''": "",
        "D=two words # and more ": "two words # and more",
        "E='it is # quoted'": "it is # quoted",
        'F="a \\"b\\" c"': 'a "b" c',
        'F2="\\$HOME \\n"': "$HOME \\n",
        "G=a=b==": "a=b==",
        "G2=it's 5\" \\'": "it's 5\" '",
        "H=mailto://u:p;w@h?x=1&y=$Z": "mailto://u:p;w@h?x=1&y=$Z",
        f"I={shlex.quote(chr(39) + ' and ' + chr(34))}": "' and \"",
    }
    environ: dict[str, str] = {}
    load(written(tmp_path, "\r\n".join(lines)), environ)
    assert list(environ.values()) == list(lines.values())


def test_no_file_gives_nothing(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert load(tmp_path / "eraflow.env", environ) == []
    assert environ == {}


@pytest.mark.parametrize(
    "line", [SECRET, f"={SECRET}", f"2X={SECRET}", f"export X={SECRET}", f"X ={SECRET}", f"X='{SECRET}",
             f'X="{SECRET}', f"X={SECRET}\\", f"X={SECRET}\0", f"X='{SECRET}\0'"],
)  # fmt: skip
def test_a_malformed_line_is_refused_by_its_number_and_sets_nothing(tmp_path: Path, line: str) -> None:
    environ: dict[str, str] = {}
    with pytest.raises(InputError, match=r"line 2 of the environment file .* must be NAME=VALUE") as caught:
        load(written(tmp_path, f"GOOD=1\n{line}\n"), environ)
    assert environ == {}
    assert SECRET not in str(caught.value)


def test_a_file_that_is_no_text_is_refused_without_its_bytes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be UTF-8 text") as caught:
        load(written(tmp_path, b"X=s3cr3t\xff"), {})
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.skipif(os.name != "posix", reason="only POSIX tells by the mode who may read a file")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_file_that_others_get_at_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path, environ = written(tmp_path, f"X={SECRET}\n", mode), dict[str, str]()
    with pytest.raises(CredentialsError, match=rf"its mode is {mode:o}; run: chmod 600 {path}"):
        load(path, environ)
    assert environ == {}
    path.chmod(0o400)
    assert load(path, environ) == ["X"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, f"X={SECRET}\n")
    os.chown(path, 12345, -1)
    with pytest.raises(CredentialsError, match=r"must belong to the user that runs eraflow .* belongs to uid 12345"):
        load(path, {})


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "eraflow.env", stat.S_IRUSR | stat.S_IWUSR)
    with pytest.raises(InputError, match="must be a plain file"):
        load(tmp_path / "eraflow.env", {})


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the mode says nothing")
def test_a_folder_that_may_not_be_entered_is_told_in_place_of_a_file_that_may_not_be_there() -> None:
    with tempfile.TemporaryDirectory() as made:  # pytest's own is closed to others as it is
        Path(made).chmod(0o755)
        home = Path(made, "home")
        home.mkdir()
        home.chmod(0o700 if os.geteuid() == 0 else 0o000)
        why = f"the folder {home} cannot be used: Permission denied; set ERAFLOW_HOME to one that can"
        with as_nobody(), pytest.raises(StorageError, match=f"^{re.escape(why)}$"):
            load(home / "eraflow.env", {})
        home.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the mode says nothing")
def test_a_file_that_may_not_be_read_in_a_home_that_can_be_used_is_told_itself() -> None:
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o777)
        path = written(Path(made), "A=1", 0o600 if os.geteuid() == 0 else 0o000)
        with as_nobody(), pytest.raises(CredentialsError, match="must be readable, however it is not: Permission"):
            load(path, {})
