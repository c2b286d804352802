"""What it takes to run this again, and to tell whether it was the same."""

from __future__ import annotations

import json
import shlex

from llmbench.reports.material import Material
from llmbench.reports.section import Section, View


def _view(material: Material) -> View:
    manifest = material.manifest
    return {
        "command": shlex.join(manifest.command),
        "facts": [
            ("Run", manifest.run_id),
            ("Started", f"{manifest.created_utc[:19].replace('T', ' ')} UTC"),
            ("Status", manifest.status),
            ("Workload digest", manifest.workload_digest),
            ("Prompts digest", manifest.prompts_digest),
            *((f"Seed of {name}", str(seed)) for name, seed in manifest.seeds.items()),
            ("Schema version", str(manifest.schema_version)),
        ],
        "workload": json.dumps(manifest.workload, indent=2, ensure_ascii=False),
    }


REPRODUCE = Section("reproduce", "Run it again", "Reproduce", _view, "reproduce.html")
