"""The simulated engine: a server of known timing in a process of its own, for tests and for calibration."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from llmbench.engines.adapter import EngineError, EngineOptions, LaunchPlan
from llmbench.engines.launch_flags import flags
from llmbench.engines.openai import Dialect, OpenAIAdapter
from llmbench.engines.simulated_server.behaviour import OPTIONS, Behaviour
from llmbench.engines.wire import Endpoint

# Token ids make every count exact and, other than a growing usage, leave all chunks of an answer the same bytes.
DIALECT = Dialect(name="simulated", extra_body={"return_token_ids": True}, exact_token_counts=True)


class SimulatedAdapter(OpenAIAdapter):
    """Settings are the fields of `Behaviour`, and `log`: the file for the true send times."""

    def __init__(self, dialect: Dialect | None = None, settings: Mapping[str, object] | None = None) -> None:
        super().__init__(dialect or DIALECT, settings)
        try:
            Behaviour().changed({name: value for name, value in (settings or {}).items() if name in OPTIONS})
        except ValueError as error:
            raise EngineError(f"settings of simulated: {error}") from None

    def launch_settings(self) -> Iterable[str]:
        return (*OPTIONS, "log")

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        self.with_settings(options.settings)
        argv = [sys.executable, "-m", "llmbench.engines.simulated_server", "--model", options.model]
        argv += ["--host", "127.0.0.1", "--port", str(port)]
        argv += flags(
            {name: options.settings[name] for name in self.launch_settings() if name in options.settings}, self.name
        )
        return LaunchPlan(
            argv=(*argv, *options.args),
            endpoint=Endpoint("127.0.0.1", port),
            env=options.env,
            startup_timeout_s=options.startup_timeout_s,
        )
