"""The configuration: where keys come from, who wins, and that nothing mistyped or secret slips through."""

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from hashweir.config import Config, Key, keys, load, shown
from hashweir.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("HASHWEIR_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def written(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_everything_has_a_default() -> None:
    """Without file and environment there is a configuration, and it names no server."""
    config = load()
    assert config.store.url == ""
    assert config.kafka.bootstrap == ""


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rule of precedence, key by key: a section may be spread over both."""
    path = written(tmp_path, "[store]\nurl = 'redis://file'\nprefix = 'p'\n[scan]\nprocesses = 3\n")
    monkeypatch.setenv("HASHWEIR_STORE__URL", "redis://environment")
    config = load(path)
    assert (config.store.url, config.store.prefix, config.scan.processes) == ("redis://environment", "p", 3)
    assert Config().store.prefix == "hashweir", "the file is read for this configuration only"


def test_the_file_is_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, then HASHWEIR_CONFIG, then ./hashweir.toml; a file that was named has to exist."""
    Path("hashweir.toml").write_text("[store]\nprefix = 'here'\n")
    assert load().store.prefix == "here"
    named = tmp_path / "named.toml"
    named.write_text("[store]\nprefix = 'named'\n")
    monkeypatch.setenv("HASHWEIR_CONFIG", str(named))
    assert load().store.prefix == "named"
    assert load(written(tmp_path, "[store]\nprefix = 'asked'\n")).store.prefix == "asked"
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("HASHWEIR_KAFKA__BOOTSTAP", r"HASHWEIR_KAFKA__BOOTSTAP.*did you mean HASHWEIR_KAFKA__BOOTSTRAP\?"),
        ("HASHWEIR_KAFKA_BOOTSTRAP", r"HASHWEIR_KAFKA_BOOTSTRAP.*did you mean HASHWEIR_KAFKA__BOOTSTRAP\?"),
        ("HASHWEIR_STOR__URL", r"stor.*did you mean store\?"),
        ("HASHWEIR_NONSENSE", "HASHWEIR_NONSENSE"),
        ("HASHWEIR_SCAN__PROCESSES__MORE", "processes__more"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(
    variable: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped variable never leaves a default in force silently."""
    monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigError, match=f"(?i){named}"):
        load()


def test_an_unknown_key_in_the_file_is_an_error(tmp_path: Path) -> None:
    """All of them are named at once."""
    with pytest.raises(ConfigError) as raised:
        load(written(tmp_path, "[kafka]\nbotstrap = 'x'\n[wrker]\n"))
    assert "kafka.botstrap: did you mean kafka.bootstrap?" in str(raised.value)
    assert "wrker: did you mean worker?" in str(raised.value)


@pytest.mark.parametrize("text", ["[[[", "store = 3", "[store]\nshards = 0", "[store]\nurl = 'http://x'", "\xff"])
def test_a_wrong_file_is_a_config_error(text: str, tmp_path: Path) -> None:
    """Not TOML, not a section, out of range: one kind of error, exit code 2."""
    path = tmp_path / "wrong.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        load(path)


@pytest.mark.parametrize("period", ["300.5", "inf", "nan"])
def test_a_canary_that_comes_too_seldom_is_named(period: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alert counts over ten minutes: with a longer period it would page where nothing is wrong."""
    monkeypatch.setenv("HASHWEIR_WORKER__CANARY_PERIOD_SECONDS", "300")
    assert load().worker.canary_period_seconds == 300
    monkeypatch.setenv("HASHWEIR_WORKER__CANARY_PERIOD_SECONDS", period)
    with pytest.raises(ConfigError, match=r"HASHWEIR_WORKER__CANARY_PERIOD_SECONDS.* 300"):
        load()


def test_service_links_of_kubernetes_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service called "hashweir" in the same namespace must not keep every pod from starting."""
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_9464_TCP", "PORT_9464_TCP_ADDR"):
        monkeypatch.setenv(f"HASHWEIR_{name}", "10.0.0.1")
        monkeypatch.setenv(f"HASHWEIR_METRICS_{name}", "10.0.0.1")
    assert load() == Config()


@pytest.mark.parametrize("key", [key for key in keys() if key.secret], ids=lambda key: f"{key.section}.{key.name}")
def test_secrets_come_from_files_and_are_never_shown(
    key: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every secret: from a file without its last newline; in no repr and not in what `check` prints."""
    (tmp_path / "secret").write_text("s3cret word\n")
    monkeypatch.setenv(f"HASHWEIR_{key[0]}__{key[1]}_FILE".upper(), str(tmp_path / "secret"))
    config = load()
    assert getattr(getattr(config, key[0]), key[1]).get_secret_value() == "s3cret word"
    assert "s3cret" not in repr(config) + str(shown(config))
    assert shown(config)[key[0]][key[1]] == "********"


def test_a_secret_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that failed is no empty password."""
    monkeypatch.setenv("HASHWEIR_STORE__PASSWORD_FILE", "/nowhere/secret")
    with pytest.raises(ConfigError, match=r"HASHWEIR_STORE__PASSWORD_FILE.*/nowhere/secret"):
        load()


def test_a_password_in_the_address_is_refused_unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is logged and shown, so no password may stand in it; the error does not repeat it."""
    monkeypatch.setenv("HASHWEIR_STORE__URL", "redis://user:s3cret@host")
    with pytest.raises(ConfigError, match=r"store\.password") as raised:
        load()
    assert "s3cret" not in str(raised.value)


def test_nothing_can_be_changed_afterwards() -> None:
    """Whoever holds the configuration holds what was checked."""
    with pytest.raises(ValidationError):
        load().store.url = "redis://other"


def test_units_are_in_the_names() -> None:
    """A number of seconds or bytes says so; no key leaves the reader to guess."""
    for key in keys():
        assert key.description, key
        if any(word in key.name for word in ("timeout", "interval", "deadline", "budget", "stale", "drain")):
            assert key.name.endswith("_seconds"), key
        if any(word in key.name for word in ("memory", "size")):
            assert key.name.endswith("_bytes"), key


@pytest.mark.parametrize("key", [key for key in keys() if re.fullmatch(r"\d+(\.\d+)?", key.default)])
def test_every_key_is_read_from_the_environment(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key's variable is taken for something else, such as a service link: rubbish in it is complained of."""
    monkeypatch.setenv(f"HASHWEIR_{key.section.upper()}__{key.name.upper()}", "rubbish")
    with pytest.raises(ConfigError, match=key.name.upper()):
        load()
