"""The configuration: one frozen tree from hashweir.toml and the environment. Parts take plain values.

A key `bootstrap` of section `kafka` is `[kafka] bootstrap` in the file and HASHWEIR_KAFKA__BOOTSTRAP in the
environment, which wins. A secret may also come from a file named by HASHWEIR_SECTION__KEY_FILE. Unknown keys
are errors: a mistyped limit that is silently ignored is worse than a worker that does not start.

Long because every key stands here, once, with its default and meaning.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hashweir.errors import ConfigError
from hashweir.shards.subset import MOST_SHARDS, parse

PREFIX = "HASHWEIR_"
PATH_VARIABLE = "HASHWEIR_CONFIG"
DEFAULT_PATH = Path("hashweir.toml")
MIB = 1024 * 1024
# A Kubernetes service named "hashweir" puts HASHWEIR_SERVICE_HOST, HASHWEIR_PORT_9090_TCP, ... into each pod.
# A double underscore makes it a key of ours.
_SERVICE_LINK = re.compile(r"HASHWEIR_(?!\w*__)(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")

Port = Annotated[int, Field(ge=0, le=65535)]


def _no_password(url: str) -> str:
    if "@" in url:
        raise ValueError("no user or password in the address: use store.username and store.password")
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("the address must begin with redis://, rediss:// (TLS) or unix://")
    return url


def _shards(text: str) -> str:
    if text:
        parse(text)
    return text


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys are errors, values never repeated in error messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Kafka(Section):
    """Where uploads come from and verdicts go."""

    bootstrap: str = Field(default="", description="brokers as host:port,host:port; `work` requires it")
    group: str = Field(default="hashweir", description="consumer group")
    instance_id: str = Field(default="", description="static membership: stable and unique per worker")
    topic_prefix: str = Field(default="hashweir.", description="prefix of every topic name")
    first_position: Literal["earliest", "latest"] = Field(default="earliest", description="where a new group begins")
    topic_partitions: PositiveInt = Field(default=6, description="partitions of a new topic")
    topic_replication: int = Field(
        default=-1,
        ge=-1,
        description="replicas of a new topic; -1: the broker's default. From 3 on it gets `min.insync.replicas` 2",
    )
    topic_retention_seconds: PositiveInt = Field(default=604_800, description="retention of a new topic")
    topic_max_message_bytes: PositiveInt = Field(default=2 * MIB, description="largest record of a new topic")
    connect_budget_seconds: PositiveFloat = Field(default=15.0, description="longest wait at start")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="how brokers are spoken to"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="SASL mechanism, with a SASL_ security protocol"
    )
    sasl_username: str = Field(default="", description="SASL user")
    sasl_password: SecretStr = Field(default=SecretStr(""), description="SASL password")
    ssl_ca_file: str = Field(default="", description="CA certificates (PEM); empty: the system's")
    ssl_cert_file: str = Field(default="", description="client certificate (PEM)")
    ssl_key_file: str = Field(default="", description="client key (PEM)")
    ssl_key_password: SecretStr = Field(default=SecretStr(""), description="password of the client key")


class Store(Section):
    """Redis or Valkey, the source of truth for sets."""

    url: Annotated[str, AfterValidator(_no_password)] = Field(
        default="",
        description="redis://host:port/db, rediss:// (TLS) or unix://path; `work`, `match`, `sets` need it",
    )
    prefix: str = Field(default="hashweir", description="prefix of every key")
    username: str = Field(default="", description="ACL user")
    password: SecretStr = Field(default=SecretStr(""), description="ACL password")
    tls_ca_file: str = Field(default="", description="CA certificates (PEM); empty: the system's")
    tls_cert_file: str = Field(default="", description="client certificate (PEM)")
    tls_key_file: str = Field(default="", description="client key (PEM)")
    wait_replicas: NonNegativeInt = Field(default=0, description="replicas that must confirm a write")
    shards: int = Field(default=16, ge=1, le=MOST_SHARDS, description="shards of a new store; fixed for its life")
    connect_budget_seconds: PositiveFloat = Field(default=10.0, description="longest wait at start")
    near: bool = Field(
        default=True,
        description="a server at loopback or a unix socket is on this machine; false where a proxy listens there",
    )


class Worker(Section):
    """The long-running worker."""

    in_flight_items: PositiveInt = Field(default=256, description="uploads held at once")
    in_flight_bytes: PositiveInt = Field(default=64 * MIB, description="bytes of uploads held at once")
    pace_seconds: NonNegativeFloat = Field(
        default=0.02,
        description="messages that follow one another faster are published together; 0: each at once",
    )
    allow_empty: bool = Field(default=False, description="judge even where no set is active")
    relay_long: bool = Field(
        default=False, description="videos by reference go to the topic uploads.long, for `hashweir work --long`"
    )
    drain_seconds: PositiveFloat = Field(default=25.0, description="time to finish after SIGTERM")
    canary_period_seconds: NonNegativeFloat = Field(
        default=0.0,
        # HashweirCanaryMissing counts over 10 minutes: a longer period would page where nothing is wrong.
        le=300,
        description="a canary upload per partition that often, at most 300; 0: none. `check --create` makes their set",
    )
    instance: str = Field(default="", description="this worker in headers and logs; empty: the host's name")


class Scan(Section):
    """The scan processes, which decode and hash untrusted bytes."""

    processes: int = Field(default=0, ge=0, le=8, description="0: one per core, at most 8")
    image_deadline_seconds: PositiveFloat = Field(default=20.0, description="wall time for one image")
    text_deadline_seconds: PositiveFloat = Field(default=20.0, description="wall time for one text")
    document_deadline_seconds: PositiveFloat = Field(default=60.0, description="wall time for one PDF")
    video_deadline_seconds: PositiveFloat = Field(default=120.0, description="wall time for one video")
    long_processes: int = Field(
        default=0, ge=0, le=8, description="processes for documents and videos alone; 0: they share the others"
    )
    memory_bytes: PositiveInt = Field(default=2048 * MIB, description="address space of one scan process")
    recycle_jobs: PositiveInt = Field(default=5000, description="a process is replaced after so many uploads")
    recycle_seconds: NonNegativeFloat = Field(
        default=60.0, description="and not sooner than so long after its start, however short the uploads are"
    )
    recycle_resident_bytes: PositiveInt = Field(
        default=512 * MIB, description="a process is replaced where so much memory stays with it"
    )
    cache_scans: NonNegativeInt = Field(
        default=8192, description="scans remembered by SHA-256, some 2 kB each; 0: none"
    )
    require_fences: Literal["none", "rlimits", "seccomp", "full"] = Field(
        default="rlimits",
        description="no start with less; production: `seccomp`, or `full` (Landlock and no network too)",
    )


class Limits(Section):
    """What one upload may be."""

    inline_bytes: PositiveInt = Field(default=MIB, description="content in a record")
    file_bytes: PositiveInt = Field(default=64 * MIB, description="a file, by reference or on the command line")
    pixels: PositiveInt = Field(default=50_000_000, description="pixels of an image")
    side_pixels: PositiveInt = Field(default=16_384, description="longest side of an image")
    ratio: PositiveInt = Field(default=200, description="long side to short side, of large images")
    text_bytes: PositiveInt = Field(default=4 * MIB, description="a text")
    pages: int = Field(default=200, ge=1, le=200, description="pages of a PDF that are read")
    page_objects: PositiveInt = Field(default=100_000, description="objects on a page of a PDF")
    video_seconds: PositiveFloat = Field(default=7200.0, description="length of a video")
    video_streams: PositiveInt = Field(default=4, description="streams of a video file")
    video_frames: int = Field(default=600, ge=1, le=1000, description="hashed frames of a video; of long ones fewer")
    video_interval_seconds: PositiveFloat = Field(default=1.0, description="between hashed frames, as in vPDQ")
    animation_frames: int = Field(default=200, ge=1, le=1000, description="hashed frames of an animated image")


class Media(Section):
    """Content by reference."""

    file_root: str = Field(default="", description="file:// addresses below this folder are read; empty: none")
    references_at_once: PositiveInt = Field(default=4, description="fetched contents held at once")


class Index(Section):
    """How old the knowledge may be."""

    soft_stale_seconds: PositiveFloat = Field(default=10.0, description="store silent so long: no action above review")
    hard_stale_seconds: PositiveFloat = Field(default=300.0, description="store silent so long: no verdicts")
    scrub_round_seconds: PositiveFloat = Field(
        default=10.0, description="every chunk is compared with the store's once in this time, to find silent damage"
    )
    folder: str = Field(
        default="",
        description="folder of this worker alone for a copy of what is known, for a quick start; empty: none",
    )
    save_seconds: PositiveFloat = Field(default=300.0, description="between two saves of that copy; and when it ends")


class Shards(Section):
    """Which part of the store this process follows."""

    only: Annotated[str, AfterValidator(_shards)] = Field(
        default="",
        description="shards to follow, as 0-3/16; empty: all. Else nothing is `clear`, and `work` asks for --partial",
    )


class LookBack(Section):
    """Uploads of late, held against what becomes known after them."""

    uploads: NonNegativeInt = Field(
        default=1_000_000, description="uploads remembered, some 230 bytes each, 75 more a video frame; 0: none"
    )
    most_bytes: PositiveInt = Field(default=512 * MIB, description="fewer uploads where they would need more memory")
    folder: str = Field(default="", description="folder of this worker alone to keep them in; empty: memory only")
    save_seconds: PositiveFloat = Field(default=10.0, description="between two saves; a SIGKILL loses so much")


class Metrics(Section):
    """Prometheus metrics and health."""

    host: str = Field(default="127.0.0.1", description="address that metrics and health listen on")
    port: Port = Field(default=9464, description="their port; 0: any free one")


class Tracing(Section):
    """Spans of uploads, for an OpenTelemetry collector; needs the extra `tracing`."""

    endpoint: str = Field(
        default="",
        pattern=r"^(https?://[^@\s]+)?$",  # shown and logged, so no password may stand in it
        description="OTLP over HTTP, such as http://localhost:4318/v1/traces; empty: no spans",
    )
    sample_ratio: float = Field(
        default=0.01, ge=0, le=1, description="share that is sampled of uploads that came without `traceparent`"
    )


class Sets(Section):
    """Management of sets."""

    allow_local_activation: bool = Field(
        default=False,
        description="one person may activate a set whose ceiling is above review",
    )


class Logs(Section):
    """Log lines: JSON, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level shown")


class _Source(PydanticBaseSettingsSource):
    """A source that answers with a whole tree, known keys or not, so that the unknown ones are found out."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False


class _Environment(_Source):
    def __call__(self) -> dict[str, Any]:
        return _from_environment(os.environ)


class _File(_Source):
    path: Path | None = None

    def __call__(self) -> dict[str, Any]:
        return {} if self.path is None else _from_file(self.path)


class Config(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kafka: Kafka = Kafka()
    store: Store = Store()
    worker: Worker = Worker()
    scan: Scan = Scan()
    limits: Limits = Limits()
    media: Media = Media()
    index: Index = Index()
    shards: Shards = Shards()
    look_back: LookBack = LookBack()
    metrics: Metrics = Metrics()
    tracing: Tracing = Tracing()
    sets: Sets = Sets()
    logs: Logs = Logs()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then file: the first that names a key wins."""
        return init_settings, _Environment(settings_cls), _File(settings_cls)


class Key(NamedTuple):
    """One key, as documented. The default is text."""

    section: str
    name: str
    default: str
    secret: bool
    description: str


def load(path: Path | None = None) -> Config:
    """The configuration from `path`, else the file that HASHWEIR_CONFIG names, else ./hashweir.toml if any.

    Raises ConfigError naming the key, where it stands and, for an unknown one, the nearest that exists.
    """
    named = path or (Path(os.environ[PATH_VARIABLE]) if os.environ.get(PATH_VARIABLE) else None)
    _File.path = named or (DEFAULT_PATH if DEFAULT_PATH.is_file() else None)
    try:
        return Config()
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(e["type"], e["loc"], e["msg"]) for e in error.errors())) from None
    finally:
        _File.path = None  # a configuration that is made without a file has none


def keys() -> Iterator[Key]:
    """Every key, in the order of the documentation."""
    for section, holder in Config.model_fields.items():
        for name, field in _section(holder).model_fields.items():
            secret = isinstance(field.default, SecretStr)
            default = "" if secret else str(field.default)
            yield Key(section, name, default, secret, field.description or "")


def section_title(section: str) -> str:
    """What a section is about, in one line."""
    return (_section(Config.model_fields[section]).__doc__ or "").strip()


def _section(holder: FieldInfo) -> type[BaseModel]:
    assert isinstance(holder.annotation, type)
    assert issubclass(holder.annotation, BaseModel)
    return holder.annotation


def shown(config: Config) -> dict[str, dict[str, object]]:
    """The effective values by section and key, secrets masked: for `hashweir check`."""
    masked: dict[str, dict[str, object]] = {}
    for key in keys():
        value = getattr(getattr(config, key.section), key.name)
        if isinstance(value, SecretStr):
            value = "********" if value.get_secret_value() else ""
        masked.setdefault(key.section, {})[key.name] = value
    return masked


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read the configuration file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Sections and keys of all HASHWEIR_ variables. Raises ConfigError for one that has no section."""
    found: dict[str, Any] = {}
    secrets = {(key.section, key.name) for key in keys() if key.secret}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == PATH_VARIABLE or _SERVICE_LINK.fullmatch(variable):
            continue
        section, separator, name = variable.removeprefix(PREFIX).lower().partition("__")
        if not separator:
            raise ConfigError(_unknown(variable, [_variable(key.section, key.name) for key in keys()]))
        base = name.removesuffix("_file")
        if base != name and (section, base) in secrets:
            try:
                name, value = base, Path(value).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError):
                raise ConfigError(f"{variable} names a file that can't be read: {value}") from None
        found.setdefault(section, {})[name] = value
    return found


def _variable(section: str, name: str) -> str:
    return f"{PREFIX}{section.upper()}__{name.upper()}"


def _unknown(key: str, candidates: list[str]) -> str:
    near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.5)
    return f"unknown configuration key {key}" + (f": did you mean {near[0]}?" if near else "")


def _explain(kind: str, location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in location)
    variable = _variable(str(location[0]), "__".join(str(part) for part in location[1:]))
    where = f"{variable} (environment)" if variable in os.environ else key
    if kind != "extra_forbidden":
        return f"{where}: {message.removeprefix('Value error, ')}"
    known = [f"{key.section}.{key.name}" for key in keys()]
    if len(location) == 1:
        known = list(Config.model_fields)
    return _unknown(where, [_variable(*k.split(".")) for k in known] if variable in os.environ else known)
