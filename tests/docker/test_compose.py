"""The compose file, and the configuration that it mounts, agree, and keep to what the README promises."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import Config
from cluster.config_file import parse
from tests.docker.files import DOCKER, compose, variables

CONFIG_TEXT = (DOCKER / "config.docker.yaml").read_text(encoding="utf-8")


def configured(service: str, **environ: str) -> Config:
    """Return the configuration as the process in a container of `service` reads it."""
    environment = compose(environ)["services"][service]["environment"]
    return parse(CONFIG_TEXT, "config.docker.yaml", environment)


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


def test_it_is_redis_one_balancer_and_three_nodes() -> None:
    """The classic picture; `--scale node=5` works because nothing of a node is fixed to one container."""
    services = compose()["services"]
    assert set(services) == {"redis", "lb", "node"}
    assert services["node"]["deploy"]["replicas"] == 3
    assert not {"container_name", "hostname", "ports"} & set(services["node"])


@pytest.mark.parametrize("service", ["lb", "node"])
def test_both_roles_read_the_same_configuration(service: str) -> None:
    """It parses with compose's defaults, and Redis is where the compose file puts it."""
    config = configured(service)
    services = compose()["services"]
    password = services[service]["environment"]["FLOTILLA_REDIS_PASSWORD"]
    assert config.redis == f"redis://:{password}@redis:6379/0"
    assert password in services["redis"]["command"]
    assert services["redis"]["environment"]["REDISCLI_AUTH"] == password
    assert config.nodes.local == 0
    assert config.nodes.discover
    assert config.nodes.host == "0.0.0.0"


def test_every_variable_of_the_configuration_is_passed_into_the_containers() -> None:
    """A variable that only the file knows would silently keep its default."""
    services = compose()["services"]
    passed = set(services["lb"]["environment"]) & set(services["node"]["environment"])
    assert variables(CONFIG_TEXT) - passed == {"FLOTILLA_ADMIN", "FLOTILLA_ADMIN_TOKEN"}
    assert {"FLOTILLA_ADMIN", "FLOTILLA_ADMIN_TOKEN"} <= set(services["lb"]["environment"])


def test_the_readme_lists_every_variable() -> None:
    """None is a secret of the file."""
    readme = (DOCKER / "README.md").read_text(encoding="utf-8")
    used = variables((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    assert {name for name in used if f"`{name}`" not in readme} == set()


def test_values_set_by_the_user_arrive() -> None:
    """Secret, password, application and log level come from the environment."""
    config = configured(
        "node", FLOTILLA_SECRET="s3cret", FLOTILLA_REDIS_PASSWORD="pw", FLOTILLA_APP="a:b", FLOTILLA_LOG_LEVEL="debug"
    )
    assert (config.secret, config.redis, config.nodes.app) == ("s3cret", "redis://:pw@redis:6379/0", "a:b")
    assert config.log.level == "debug"


def test_a_secret_of_digits_is_text() -> None:
    """YAML must not take it for a number."""
    assert configured("lb", FLOTILLA_SECRET="0123").secret == "0123"


def test_only_the_balancers_public_port_is_published() -> None:
    """Neither Redis, nor a node, nor the admin address can be reached from outside."""
    services = compose()["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"lb": ["8080:8080"]}
    assert configured("lb").lb.listen.port == 8080
    assert configured("lb").lb.admin.is_loopback


def test_redis_is_on_an_internal_network_alone() -> None:
    """And both roles are on it too."""
    stack = compose()
    assert stack["services"]["redis"]["networks"] == ["data"]
    assert stack["networks"]["data"] == {"internal": True}
    assert all("data" in stack["services"][name]["networks"] for name in ("lb", "node"))


def test_containers_have_more_time_to_stop_than_they_take_to_drain() -> None:
    """Otherwise the engine's SIGKILL would cut what is being drained."""
    services, config = compose()["services"], configured("lb")
    assert seconds(services["lb"]["stop_grace_period"]) >= config.lb.drain_s + 10
    assert seconds(services["node"]["stop_grace_period"]) >= config.nodes.drain_s + 10


def test_each_role_is_asked_for_its_own_health() -> None:
    """The image's check asks the balancer by default; a node's container says where its own answer is."""
    services = compose()["services"]
    port = services["node"]["command"][-1]
    assert services["node"]["environment"]["FLOTILLA_HEALTH_URL"] == f"http://127.0.0.1:{port}/healthz"
    assert "FLOTILLA_HEALTH_URL" not in services["lb"]["environment"]


@pytest.mark.parametrize("service", ["lb", "node"])
def test_nothing_starts_before_redis_is_healthy(service: str) -> None:
    """Redis has a check for that."""
    services: dict[str, Any] = compose()["services"]
    assert services[service]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert "test" in services["redis"]["healthcheck"]


@pytest.mark.parametrize("service", ["lb", "node", "redis"])
def test_every_service_is_locked_down_and_comes_back(service: str) -> None:
    """Read-only, no capabilities, restarted unless a person stopped it, logs bounded."""
    settings = compose()["services"][service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["restart"] == "unless-stopped"
    assert settings["ulimits"]["nofile"] >= 65536
    assert settings["logging"]["options"]["max-size"]


def test_no_image_floats() -> None:
    """Each has a tag with a version."""
    for service in compose()["services"].values():
        tag = service["image"].partition(":")[2]
        assert tag[:1].isdigit()
