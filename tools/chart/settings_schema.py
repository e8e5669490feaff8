"""The part of values.schema.json that follows from the operator's settings."""

import json
from typing import Any

from trainyard_operator.settings import Settings

OWN_VALUES = frozenset(
    {
        "namespaces",
        "identity",
        "operator_namespace",
        "worker_image",
        "default_claim_name",
        "cluster_domain",
        "lease_name",
        "progress_port",
        "pod_address",
        "progress_service",
        "certificate_file",
        "certificate_key_file",
        "certificate_authority_file",
        "progress_url",
        "ca_config_map",
        "metrics_port",
        "log_level",
    }
)
"""Settings that the chart sets itself, from other values or from what it creates."""

_KEYWORDS = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "enum")


def further_settings() -> dict[str, dict[str, Any]]:
    """JSON schema of the other settings, by their name in values.yaml."""
    properties = Settings.model_json_schema()["properties"]
    return {camel_case(name): node for name, node in properties.items() if name not in OWN_VALUES}


def schema_with_settings(text: str) -> str:
    """The schema of the values, with the settings as they are now."""
    schema = json.loads(text)
    schema["properties"]["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {keyword: node[keyword] for keyword in _KEYWORDS if keyword in node}
            for name, node in further_settings().items()
        },
    }
    return json.dumps(schema, indent=2) + "\n"


def camel_case(name: str) -> str:
    """lease_name as leaseName."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
