"""Where settings come from, which of them count, and what is said about a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orderflow_server.cli import app
from orderflow_server.configuration import BadSettings, load
from orderflow_server.settings import Settings
from orderflow_server.settings_table import setting_lines

PASSWORD = "canary-secret"  # not a secret: what must not be shown


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("OPS_ADDRESS", "CONFIG", "SECRETS_DIR"):
        monkeypatch.delenv(f"ORDERFLOW_{name}", raising=False)
    return monkeypatch


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_what_stands_nearer_to_the_command_counts(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    config = written(tmp_path / "orders.toml", "grace_s = 1\nworkers = 1\nreserve_s = 1\nnats = ''")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    written(secrets / "grace_s", "2\n")
    written(secrets / "workers", "2")
    written(secrets / "reserve_s", "2")
    written(secrets / "somebody-elses", "")
    environment.setenv("ORDERFLOW_SECRETS_DIR", str(secrets))
    environment.setenv("ORDERFLOW_GRACE_S", "3")
    environment.setenv("ORDERFLOW_WORKERS", "3")
    environment.setenv("ORDERFLOW_WRITE_QUEUE", "3")
    found = load({"grace_s": 4, "write_queue": 4}, assignments=["write_queue=5"], config=config)
    its = found.settings
    assert (its.write_queue, its.grace_s, its.workers, its.reserve_s) == (5, 4, 3, 2)
    assert found.origins == {
        "write_queue": "--set write_queue",
        "grace_s": "--grace-s",
        "workers": "ORDERFLOW_WORKERS",
        "reserve_s": str(secrets / "reserve_s"),
        "nats": str(config),
    }


def test_the_last_of_several_assignments_counts() -> None:
    assert load({}, assignments=["grace_s=1", "grace_s=2"]).settings.grace_s == 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("address", "localhost", "host:port"),
        ("address", ":50051", "host:port"),
        ("address", "::1:50051", "brackets"),
        ("address", "localhost:65536", "from 0 to 65535"),
        ("address", "localhost:http", "from 0 to 65535"),
        ("ops_address", "9464", "host:port"),
        ("ops_address", "127.0.0.1:50051", "address and ops_address must differ"),
        ("gateway", "payments", "host:port"),
        ("gateway", "payments:0", "port 0"),
        ("nats", "http://nats:4222", "nats://host:port"),
        ("nats", f"nats://orders:{PASSWORD}@nats:99999", "nats://host:port"),
        ("database", f"mysql://orders:{PASSWORD}@db/orders", "postgresql://"),
        ("grace_s", "soon", "valid number"),
        ("grace_s", "-1", "greater than or equal to 0"),
        ("workers", "0", "greater than or equal to 1"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("slow_call_s", "nan", "greater than 0"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_setting_and_where_it_was_set(
    environment: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    variable = f"ORDERFLOW_{name.upper()}"
    environment.setenv(variable, value)
    with pytest.raises(BadSettings) as caught:
        load({})
    sentence = str(caught.value)
    assert name in sentence
    assert said in sentence
    assert variable in sentence or "must differ" in sentence
    assert PASSWORD not in sentence
    assert "\n" not in sentence


def test_the_ports_of_all_workers_must_exist() -> None:
    with pytest.raises(BadSettings, match="ops_address: 3 workers"):
        load({"ops_address": "127.0.0.1:65534", "workers": 3})


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "[::1]:50051", "0.0.0.0:1", "orders.example:65535"]
)
def test_an_address_to_serve_on(address: str) -> None:
    assert load({"address": address, "insecure": True}).settings.address == address


@pytest.mark.parametrize("target", ["", "payments:50052", "dns:///payments:1", "ipv4:10.0.0.1:1"])
def test_a_target_to_call(target: str) -> None:
    assert load({"gateway": target}).settings.gateway == target


def test_a_slip_in_the_name_of_a_variable_is_an_error(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ORDERFLOW_GRACE", "30")
    with pytest.raises(BadSettings, match=r"ORDERFLOW_GRACE is no setting.*ORDERFLOW_GRACE_S"):
        load({})


@pytest.mark.parametrize(
    "name",
    [
        # Kubernetes sets these for Services named orderflow and orderflow-server.
        *("PORT", "PORT_50051_TCP", "PORT_50051_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT_GRPC"),
        *("SERVER_SERVICE_HOST", "SERVER_PORT_50051_TCP_PROTO"),
        # The client's, and the tests'.
        *("TARGET", "PAYMENT_TOKEN", "TEST_DATABASE_URL", "CHAOS_ORDERS"),
    ],
)
def test_variables_of_others_are_left_alone(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(f"ORDERFLOW_{name}", "tcp://10.0.0.1:50051")
    load({})


def test_a_key_of_the_file_that_is_no_setting_is_an_error(tmp_path: Path) -> None:
    config = written(tmp_path / "orders.toml", "grace = 1")
    with pytest.raises(
        BadSettings, match=r"orders.toml: grace is no setting: did you mean grace_s"
    ):
        load({}, config=config)


@pytest.mark.parametrize("assignment", ["grace=1", "grace_s"])
def test_an_assignment_that_is_none_is_an_error(assignment: str) -> None:
    with pytest.raises(BadSettings, match=f"--set {assignment}"):
        load({}, assignments=[assignment])


def test_a_file_that_is_not_there_or_no_toml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"missing\.toml cannot be read"):
        load({}, config=tmp_path / "missing.toml")
    with pytest.raises(BadSettings, match=r"bad\.toml cannot be read"):
        load({}, config=written(tmp_path / "bad.toml", "grace_s: 1"))


def test_a_directory_of_secrets_that_is_not_there_is_an_error(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ORDERFLOW_SECRETS_DIR", str(tmp_path / "missing"))
    with pytest.raises(BadSettings, match="ORDERFLOW_SECRETS_DIR"):
        load({})


def test_another_process_reads_the_same_settings_from_the_environment(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    its = load(
        {
            "database": f"postgresql://orders:{PASSWORD}@db/orders",
            "nats": f"nats://orders:{PASSWORD}@nats:4222",
            "tls_certificate": tmp_path / "certificate.pem",
            "tls_key": tmp_path / "key.pem",
            "trust_callers": True,
            "grace_s": 3.5,
        }
    ).settings
    for name, value in its.environment().items():
        environment.setenv(name, value)
    assert load({}).settings == its


def test_the_table_has_every_setting_and_no_password() -> None:
    found = load(
        {
            "database": f"postgresql://orders:{PASSWORD}@db/orders",
            "nats": f"nats://orders:{PASSWORD}@nats:4222,nats://other",
        }
    )
    lines = {line.name: line for line in setting_lines(found)}
    assert set(lines) == set(Settings.model_fields) - {"ready_fd"}
    assert all(line.meaning for line in lines.values())
    assert lines["database"].value == "postgresql://db/orders"
    assert lines["nats"].value == "nats://nats:4222,nats://other"
    assert lines["grace_s"].default == 10.0
    assert lines["grace_s"].variable == "ORDERFLOW_GRACE_S"
    assert PASSWORD not in repr(lines)


def test_the_command_shows_every_setting_its_value_and_where_it_was_set(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("COLUMNS", "120")
    environment.setenv(
        "ORDERFLOW_CONFIG", str(written(tmp_path / "orders.toml", "lame_duck_s = 5"))
    )
    shown = CliRunner().invoke(app, ["settings", "--set", "grace_s=3"])
    assert shown.exit_code == 0
    for name in set(Settings.model_fields) - {"ready_fd"}:
        assert name in shown.output
    assert "from --set grace_s" in shown.output
    lines = CliRunner().invoke(app, ["settings", "--json"]).output.splitlines()
    [lame_duck] = [each for each in map(json.loads, lines) if each["name"] == "lame_duck_s"]
    assert (lame_duck["value"], lame_duck["default"]) == (5.0, 0.0)
    assert lame_duck["origin"] == str(tmp_path / "orders.toml")


def test_the_command_ends_with_1_for_a_wrong_setting_and_with_2_for_no_such_option() -> None:
    wrong = CliRunner().invoke(app, ["settings", "--set", "grace_s=soon"])
    assert wrong.exit_code == 1
    assert "setting grace_s (from --set grace_s)" in wrong.stderr
    assert CliRunner().invoke(app, ["settings", "--nonsense"]).exit_code == 2
