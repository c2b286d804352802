"""What a workload says about each engine it is run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from llmbench.workloads.base import Argument, Frozen, NonNegative, Positive, Text, refuse

# What the kernel takes as the name of a Unix socket, its final zero left out.
_MAX_SOCKET_PATH_BYTES = 107


def _engine_url(url: str) -> str:
    if url.startswith("unix:"):
        return _unix_url(url)
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https", "grpc", "grpcs", "ws", "wss")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
        plain = parts.username is None and parts.password is None
    except ValueError:
        usable, plain = False, True
    if not usable:
        refuse(None, f"given {url!r}, allowed: http://host:port/path or unix:///path/to.sock")
    if not plain:
        refuse(None, "a workload holds no passwords, as it is stored with every result; take user and password out")
    return url


def _unix_url(url: str) -> str:
    path = url.removeprefix("unix://")
    if not path.startswith("/") or "\0" in path:
        refuse(None, f"given {url!r}, allowed: unix:// and an absolute path, as in unix:///run/engine.sock")
    if len(path.encode()) > _MAX_SOCKET_PATH_BYTES:
        refuse(None, f"the path of a Unix socket has {_MAX_SOCKET_PATH_BYTES} bytes at most, {path!r} has more")
    return url


def _metrics_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        refuse(None, f"given {url!r}, allowed: http://host:port/metrics")
    return _engine_url(url)


class PriceSpec(Frozen):
    """What an hour of the machine that an engine runs on costs."""

    per_hour: NonNegative = Field(description="Price of an hour, in `currency`.")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field(
        description="Three letters of ISO 4217, as in USD; one for all engines of a workload."
    )


class EngineFields(Frozen):
    """What can be said of an engine beside its name."""

    label: Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^/\\\x00-\x1f\x7f]+$")] = Field(
        default="",
        description="What the report calls it; default its name. Needed where one engine is listed twice.",
    )
    url: Annotated[str, AfterValidator(_engine_url)] | None = Field(
        default=None,
        description="Where a running server listens, as http://host:port, https://, grpc://, grpcs://, ws://, "
        "wss:// or unix:///path/to.sock; default: the engine is started here.",
    )
    tls_ca: Text | None = Field(
        default=None,
        description="A PEM file with the authorities to trust for an https url, relative to the workload; default "
        "those of the system.",
    )
    args: tuple[Argument, ...] = Field(
        default=(), description="Further command line arguments for an engine that is started here; default none."
    )
    env: Mapping[str, Argument] = Field(
        default={}, description="Further environment variables for an engine that is started here; default none."
    )
    prefix: tuple[Argument, ...] | None = Field(
        default=None,
        description="What stands before the command line of an engine that is started here, as in [taskset, -c, 0-3] "
        "or [numactl, --cpunodebind=0, --membind=0]; default nothing.",
    )
    settings: Mapping[str, JsonValue] = Field(
        default={}, description="Options that the adapter of this engine understands; default none."
    )
    startup_timeout_s: Positive = Field(
        default=120.0, description="How long it may take until it answers its readiness check, in s; default 120."
    )
    restart: bool | None = Field(
        default=None,
        description="false: after it has ended by itself, its later rounds are left out; default null, it is started "
        "again for them.",
    )
    metrics_url: Annotated[str, AfterValidator(_metrics_url)] | None = Field(
        default=None,
        description="Where its Prometheus metrics are, as http://host:port/metrics; default where such an engine has "
        "them.",
    )
    price: PriceSpec | None = Field(
        default=None,
        description="What an hour of its machine costs, as in {per_hour: 2.5, currency: USD}: tokens then have a cost. "
        "Default null, unknown.",
    )
    model: Text | None = Field(default=None, description="The model for this engine alone; default the workload's.")

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if self.prefix is not None and self.url is not None:
            refuse("prefix", "a server with a url runs already, and nothing can be put before its command line")
        if self.restart is not None and self.url is not None:
            refuse("restart", "a server with a url is not started here, the first time or again")
        if self.tls_ca is not None and not (self.url or "").startswith(("https:", "grpcs:", "wss:")):
            refuse("tls_ca", "there is nothing to trust without TLS: give an https://, grpcs:// or wss:// url with it")
        return self


class EngineSpec(EngineFields):
    """One engine. In a workload either its name, or `name: {…}` with what differs from its defaults."""

    name: Text = Field(description="The engine's name, one of those that `llmbench engines list` prints.")

    @model_validator(mode="before")
    @classmethod
    def _label_is_name(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("label") is None and isinstance(data.get("name"), str):
            return {**data, "label": data["name"][:80]}
        return data


def engine_mapping(item: object) -> object:
    """`reference` and `reference: {…}` as the mapping that EngineSpec takes; anything else as it came."""
    if isinstance(item, str):
        return {"name": item}
    if isinstance(item, Mapping) and len(item) == 1 and "name" not in item:
        [(name, options)] = item.items()
        if options is None:
            return {"name": name}
        if isinstance(options, Mapping) and "name" not in options:
            return {"name": name, **options}
    return item


Engine = Annotated[
    EngineSpec,
    BeforeValidator(engine_mapping, json_schema_input_type=Text | EngineSpec | dict[str, EngineFields | None]),
]
