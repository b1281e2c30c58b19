"""Settings: one YAML file, checked over the rules' own dataclasses, into frozen values."""

from scaler.config.reading import (
    API_VERSION,
    Config,
    data_folder,
    parse_config,
    read_config,
    read_profile,
    shipped_profiles,
)
from scaler.config.values import (
    DiscoverConfig,
    FloorConfig,
    FloorKind,
    ForecastConfig,
    HaConfig,
    HttpConfig,
    KubernetesConfig,
    PrometheusConfig,
    SelectorConfig,
    TargetConfig,
)

__all__ = [
    "API_VERSION",
    "Config",
    "DiscoverConfig",
    "FloorConfig",
    "FloorKind",
    "ForecastConfig",
    "HaConfig",
    "HttpConfig",
    "KubernetesConfig",
    "PrometheusConfig",
    "SelectorConfig",
    "TargetConfig",
    "data_folder",
    "parse_config",
    "read_config",
    "read_profile",
    "shipped_profiles",
]
