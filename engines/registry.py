"""Engines by name: those in the table here, and those that installed packages offer as `llmbench.engines`.

An engine is imported when it is asked for, so that listing and `--help` stay fast.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any
from urllib.parse import urlsplit

from llmbench.engines.adapter import Adapter, EngineError, MissingPackageError
from llmbench.engines.environments import environment, install_command
from llmbench.engines.recipe import Recipe
from llmbench.engines.wire import Endpoint

GROUP = "llmbench.engines"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """One line of `llmbench engines list`. `install_hint` is the command for what is missing. `launchable` is None for
    an engine of another package, which alone knows.

    `outdated` says by which other recipe its environment was installed, None where by this one; `lacks` what else this
    machine must have to start it, each a sentence.
    """

    name: str
    launchable: bool | None
    installed: bool
    install_hint: str
    summary: str
    outdated: str | None = None
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """`factory` is `module:name` of what makes the adapter; `needs` are packages without which it cannot be started, or
    asked.

    `recipe` is `module:name` of how its own environment is made, for an engine that cannot live in ours.
    """

    factory: str
    summary: str
    launchable: bool = False
    needs: tuple[str, ...] = ()
    extra: str = ""
    recipe: str = ""


_TABLE: Mapping[str, _Entry] = {
    "openai": _Entry("llmbench.engines.openai:OpenAIAdapter", "Any server that speaks the OpenAI protocol."),
    "reference": _Entry(
        "llmbench.engines.reference:ReferenceAdapter",
        "The bundled engine: Llama checkpoints, paged KV cache, continuous batching.",
        launchable=True,
        needs=("torch", "safetensors", "starlette", "uvicorn", "prometheus_client"),
        extra="reference",
    ),
    "simulated": _Entry(
        "llmbench.engines.simulated:SimulatedAdapter",
        "Answers on a schedule, without a model, and logs when it really sent: shows the instrument's error.",
        launchable=True,
    ),
    "llamacpp": _Entry("llmbench.engines.openai_presets:LLAMACPP", "llama.cpp's llama-server."),
    "lmdeploy": _Entry("llmbench.engines.openai_presets:LMDEPLOY", "LMDeploy's api_server."),
    "mii": _Entry(
        "llmbench.engines.mii:MiiAdapter",
        "DeepSpeed-MII's persistent deployment, by gRPC.",
        launchable=True,
        needs=("grpc", "google.protobuf"),
        extra="grpc",
        recipe="llmbench.engines.mii_launch:RECIPE",
    ),
    "mii-openai": _Entry("llmbench.engines.openai_presets:MII_OPENAI", "DeepSpeed-MII's OpenAI server."),
    "mii-rest": _Entry("llmbench.engines.mii_rest:MiiRestAdapter", "DeepSpeed-MII's RESTful gateway; no streaming."),
    "mlx": _Entry("llmbench.engines.openai_presets:MLX", "MLX LM's mlx_lm.server."),
    "ollama": _Entry("llmbench.engines.openai_presets:OLLAMA", "Ollama's OpenAI routes."),
    "sglang": _Entry("llmbench.engines.openai_presets:SGLANG", "SGLang's OpenAI server."),
    "tgi": _Entry("llmbench.engines.tgi:TgiAdapter", "Text Generation Inference by its own routes."),
    "tgi-openai": _Entry(
        "llmbench.engines.openai_presets:TGI_OPENAI", "The OpenAI routes of Text Generation Inference."
    ),
    "transformers": _Entry("llmbench.engines.openai_presets:TRANSFORMERS", "The server of `transformers serve`."),
    "triton": _Entry(
        "llmbench.engines.triton_server:TritonAdapter",
        "NVIDIA Triton Inference Server; started here, it serves the bundled engine.",
        launchable=True,
        recipe="llmbench.engines.triton_launch:RECIPE",
    ),
    "trtllm": _Entry("llmbench.engines.openai_presets:TRTLLM", "TensorRT-LLM's trtllm-serve."),
    "vllm-offline": _Entry(
        "llmbench.engines.vllm_offline:VllmOfflineAdapter",
        "vLLM without its server: LLM.generate on batches; whole answers only.",
        launchable=True,
        recipe="llmbench.engines.vllm:RECIPE",
    ),
    "vllm": _Entry(
        "llmbench.engines.vllm:VllmAdapter",
        "vLLM's OpenAI server, in an environment of its own.",
        launchable=True,
        recipe="llmbench.engines.vllm:RECIPE",
    ),
}


def names() -> tuple[str, ...]:
    """All engines that can be asked for, sorted."""
    return tuple(sorted({*_TABLE, *_plugins()}))


def get(name: str, settings: Mapping[str, object] | None = None) -> Adapter:
    """The adapter of the engine `name`, told a workload's `settings`.

    Raises EngineError for an unknown engine or setting, MissingPackageError when a package it imports is not there.
    """
    plugins = _plugins()
    if name in _TABLE:
        if name in plugins:
            raise EngineError(
                f"The engine {name!r} is built in, and {_origin(plugins[name])} offers another of that name; "
                "one of the two must be renamed or removed."
            )
        adapter: Adapter = _imported(_TABLE[name].factory)()
    elif name in plugins:
        adapter = _load(plugins[name])
    else:
        known = names()
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise EngineError(f"There is no engine {name!r}. llmbench knows {', '.join(known)}{hint}")
    return adapter if not settings else _configured(adapter, settings)


def require(name: str) -> None:
    """Raise MissingPackageError, with the pip command, if llmbench cannot start the engine `name` as installed."""
    entry = _TABLE.get(name)
    missing = _missing(entry) if entry is not None else []
    if entry is not None and missing:
        raise MissingPackageError(f"{name} needs {', '.join(missing)}, not installed here: {_hint(entry)}")


def recipes() -> dict[str, Recipe]:
    """How engines that need an environment of their own are installed, by name."""
    return {name: _imported(entry.recipe) for name, entry in _TABLE.items() if entry.recipe}


def describe() -> list[EngineInfo]:
    """One entry per engine, sorted by name; imports none of the built-in ones but those with a recipe."""
    environments = {name: environment(recipe) for name, recipe in recipes().items()}
    infos = []
    for name, entry in _TABLE.items():
        own = environments.get(name)
        if own is None or _missing(entry):
            infos.append(EngineInfo(name, entry.launchable, not _missing(entry), _hint(entry), entry.summary))
        else:
            told = (name, entry.launchable, own.is_complete, install_command(own), entry.summary)
            infos.append(EngineInfo(*told, own.outdated, tuple(own.recipe.lacks())))
    for name, point in _plugins().items():
        if name not in _TABLE:
            infos.append(EngineInfo(name, None, True, "", f"From {_origin(point)}."))
    return sorted(infos, key=lambda info: info.name)


def url_endpoint(url: str, api_key: str | None = None, tls_ca: str | None = None) -> Endpoint:
    """Where `http(s)://host[:port][/path]`, the same with grpc(s) or ws(s), or `unix:///path/to.sock` points.

    Raises EngineError for anything else.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix://")
        if not path.startswith("/"):
            raise EngineError(f"The url {url!r} names no Unix socket; give unix:///path/to.sock.")
        return Endpoint("localhost", 80, api_key=api_key, unix_path=path)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise EngineError(f"The url {url!r} cannot be read ({error}); give http://host:port.") from None
    if parts.scheme not in ("http", "https", "grpc", "grpcs", "ws", "wss") or not parts.hostname or port == 0:
        raise EngineError(f"The url {url!r} names no server; give http://host:port or https://host:port.")
    if parts.username is not None or parts.query or parts.fragment:
        raise EngineError("An engine's url holds scheme, host, port and path only: no password, query or fragment.")
    tls = parts.scheme in ("https", "grpcs", "wss")
    default = 443 if tls else 80
    port = default if port is None else port
    websocket = parts.scheme in ("ws", "wss")
    return Endpoint(parts.hostname, port, parts.path.rstrip("/"), tls, api_key, tls_ca, websocket=websocket)


def _imported(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _plugins() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in found:
            raise EngineError(
                f"Two packages offer an engine named {point.name!r}: {_origin(found[point.name])} and "
                f"{_origin(point)}. Remove one of them."
            )
        found[point.name] = point
    return found


def _load(point: EntryPoint) -> Adapter:
    try:
        adapter: Adapter = point.load()()
    except ImportError as error:
        raise MissingPackageError(
            f"The engine {point.name!r} of {_origin(point)} needs {error.name or 'a package'}, which cannot be "
            f"imported ({error}): pip install {error.name or 'it'}"
        ) from error
    except Exception as error:
        raise EngineError(f"The engine {point.name!r} of {_origin(point)} cannot be loaded: {error!r}.") from error
    return adapter


def _configured(adapter: Adapter, settings: Mapping[str, object]) -> Adapter:
    configure: Any = getattr(adapter, "with_settings", None)
    if configure is None:
        raise EngineError(f"{adapter.name} has no settings; leave out {', '.join(settings)}.")
    configured: Adapter = configure(settings)
    return configured


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _missing(entry: _Entry) -> list[str]:
    # Of `google.protobuf` the first part is looked for: to find the rest would import it.
    return [package for package in entry.needs if importlib.util.find_spec(package.partition(".")[0]) is None]


def _hint(entry: _Entry) -> str:
    return f'pip install "llmbench[{entry.extra}]"' if entry.extra else "pip install llmbench"
