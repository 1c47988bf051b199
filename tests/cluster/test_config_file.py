"""cluster/config_file.py: every mistake with file, line, key, what is wrong and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Balance, Config, Endpoint, Lb, Stickiness
from cluster.config_file import MOST_DEPTH, ConfigError, load, parse, written
from cluster.errors import UsageError

ROOT = Path(__file__).parents[2]
SECTIONS = "cluster, secret, redis, lb, nodes, bus, restart, log"


def problems(text: str, **environ: str) -> list[str]:
    """Return what is wrong with `text`, as the lines of the error."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "config.yaml", environ)
    assert str(caught.value).splitlines() == caught.value.problems
    return caught.value.problems


def told_of(text: str) -> list[str]:
    """Return what is wrong with `text`, if anything."""
    try:
        parse(text, "config.yaml", {})
    except ConfigError as exc:
        return exc.problems
    return []


def problem(text: str, **environ: str) -> str:
    [only] = problems(text, **environ)
    return only


TEN_MISTAKES = """\
cluster: Flotilla
redis: http://cache:6379
lb:
  listen: 8080
  workers: 0
  balence: round_robin
  stickiness: cookies
  trusted_proxies: [10.0.0.0/8, 10.0.0.0/99]
nodes:
  app: chat
  local: "3"
  heartbeat_s: 2
  lease_s: 5
  lease_s: 9
secret: ${FLOTILLA_SECRET}
log:
  level: loud
"""


def test_ten_and_more_mistakes_in_one_file_are_all_told_at_once() -> None:
    """Each with its line and key, in the file's order; the pair lease and heartbeat among them."""
    assert problems(TEN_MISTAKES) == [
        "config.yaml:1: cluster: 'Flotilla' is not allowed; allowed: what matches ^[a-z0-9][a-z0-9_-]{0,31}$",
        "config.yaml:2: redis: 'http://cache:6379' must be embedded, none or a URL:"
        " redis://…, rediss://…, unix://…, redis+sentinel://…, redis+cluster://…",
        "config.yaml:4: lb.listen: 8080 must be host:port, for example 0.0.0.0:8080",
        "config.yaml:5: lb.workers: 0 is too small; allowed: 1 or more",
        "config.yaml:6: lb.balence: unknown key, did you mean balance? allowed here: " + ", ".join(Lb.model_fields),
        "config.yaml:7: lb.stickiness: 'cookies' is not allowed; allowed: cookie, ip_hash, none",
        "config.yaml:8: lb.trusted_proxies.1: '10.0.0.0/99' must be an IP address or a network, for example 10.0.0.0/8",
        "config.yaml:10: nodes.app: 'chat' must be module:attribute, for example node.chat:sio",
        "config.yaml:11: nodes.local: '3' is not a whole number; allowed: a whole number, without quotes",
        "config.yaml:13: nodes.lease_s: a lease of 5 s must outlast three heartbeats of 2 s; allowed: more than 6",
        "config.yaml:14: nodes.lease_s: stands here twice, first in line 13; allowed: once",
        "config.yaml:15: secret: the environment has no FLOTILLA_SECRET; allowed: set it, or write"
        " ${FLOTILLA_SECRET:-default}",
        "config.yaml:17: log.level: 'loud' is not allowed; allowed: debug, info, warning, error",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lb:\n  workers: true", "2: lb.workers: true is not a whole number; allowed: a whole number, without quotes"),
        ("lb:\n  workers: 1.5", "2: lb.workers: 1.5 is not a whole number; allowed: a whole number, without quotes"),
        ("lb:\n  workers: 257", "2: lb.workers: 257 is too large; allowed: at most 256"),
        ("lb:\n  drain_s: soon", "2: lb.drain_s: 'soon' is not a number; allowed: a number, without quotes"),
        ("lb:\n  drain_s: .nan", "2: lb.drain_s: nan is not a number; allowed: a number, without quotes"),
        ("lb:\n  drain_s: -1", "2: lb.drain_s: -1 is too small; allowed: 0 or more"),
        ("lb:\n  head_timeout_s: 0", "2: lb.head_timeout_s: 0 is too small; allowed: 0.001 or more"),
        ("nodes:\n  heartbeat_s: 0.00001", "2: nodes.heartbeat_s: 1e-05 is too small; allowed: 0.001 or more"),
        (
            "nodes:\n  advertise: http://10.0.0.7",
            "2: nodes.advertise: 'http://10.0.0.7' must be a host name or an IP address alone: no scheme, no port,"
            " no brackets",
        ),
        ("lb:\n  drain_s: 1e9", "2: lb.drain_s: '1e9' is not a number; allowed: a number, without quotes"),
        (
            "lb:\n  idle_timeout_s: 1.0e+9",
            "2: lb.idle_timeout_s: 1000000000.0 is too large; allowed: at most 31622400",
        ),
        ("lb:\n  cookie:\n    secure: 1", "3: lb.cookie.secure: 1 is neither true nor false; allowed: true, false"),
        (
            "lb:\n  cookie:\n    name: a b",
            "3: lb.cookie.name: 'a b' is not allowed; allowed: what matches ^[A-Za-z0-9_-]*$",
        ),
        (
            "lb:\n  allowed_origins: [https://a/]",
            "2: lb.allowed_origins.0: 'https://a/' must be null, or scheme://host with an optional port and nothing"
            " behind it, for example https://chat.example.com or https://*.example.com",
        ),
        (
            "lb:\n  allowed_origins: [null]",
            "2: lb.allowed_origins.0: None is not text; allowed: text (put it in quotes)",
        ),
        ("lb:\n  other_upgrades: deny", "2: lb.other_upgrades: 'deny' is not allowed; allowed: remove, refuse"),
        ("lb:\n  max_headers: 121", "2: lb.max_headers: 121 is too large; allowed: at most 120"),
        ("lb: 5", "1: lb: 5 is not a section; allowed: a mapping of keys to values"),
        ("nodes:\n  static: h:1", "2: nodes.static: 'h:1' is not a list; allowed: a list, for example []"),
        ("nodes:\n  host: ''", "2: nodes.host: '' is too short; allowed: 1 characters or more"),
        ("redis: yes", "1: redis: true is not text; allowed: text (put it in quotes)"),
        ("cluster: 2026-01-02", "1: cluster: 2026-01-02 is not text; allowed: text (put it in quotes)"),
        ("restarts: {}", f"1: restarts: unknown key, did you mean restart? allowed here: {SECTIONS}"),
        (
            'cluster: "\\ud800"',
            "1: cluster: '\\ud800': Input should be a valid string, unable to parse raw data as a unicode string",
        ),
        ("zzz: 1", f"1: zzz: unknown key; allowed here: {SECTIONS}"),
        (
            "lb:\n  tls:\n    more:\n      - certificat: a",
            "4: lb.tls.more.0.certificat: unknown key, did you mean certificate? allowed here: certificate, key",
        ),
        (
            "lb:\n  tls:\n    certificate: a\n    key: a\n    more:\n    - certificate: b\n      key: b\n    - key: c",
            "8: lb.tls.more.1.key: has no certificate beside it; allowed: none of both, or a certificate as well",
        ),
        (
            "lb:\n  tls:\n    certificate: a\n    key: a\n    more:\n    - {}",
            "6: lb.tls.more.0: names no files; allowed: a certificate and its key",
        ),
        (
            "lb:\n  tls:\n    more: [shop.crt]",
            "3: lb.tls.more.0: 'shop.crt' is not a section; allowed: a mapping of keys to values",
        ),
        ("log:\n  levels: info", "2: log.levels: unknown key, did you mean level? allowed here: level, format, access"),
    ],
)
def test_each_kind_of_mistake_has_its_sentence(text: str, told: str) -> None:
    """The value as it was written, what is wrong with it, what is allowed."""
    assert problem(text) == f"config.yaml:{told}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:port",
        "redis://",
        "redis://h:65536",
        "redis://h/x",
        "rediss://u@/0",
        "unix://relative",
        "unix://",
        "redis+sentinel://",
        "redis+sentinel://h:1,:2/0/main",
        "redis+cluster://h:1/1",
        "redis+cluster://",
        "memcached://h",
        "redis://h?bogus=1",
        "redis://h?db=x",
        "redis://h?db",
        "redis://h?protocol=9",
        "redis://h?decode_responses=true",
        "redis://h?db=1&&protocol=3",
        "redis://h?password=secret",
        "redis://h?ssl_cert_reqs=none",
        "rediss://h?ssl_cert_reqs=maybe",
        "unix:///run/valkey.sock?virtual_host=1",
        "redis",
    ],
)
def test_a_redis_url_that_cannot_work_is_refused(url: str) -> None:
    """At the check, not as a traceback of the first connection."""
    assert problem(f"redis: '{url}'").startswith(f"config.yaml:1: redis: '{url}' ")


@pytest.mark.parametrize(
    "url",
    [
        "embedded",
        "redis://h",
        "redis://h:6379/0",
        "redis://:secret@10.0.0.5:6379",
        "redis://user:p%40ss@[fd00::1]:6379/15?protocol=3",
        "rediss://h/",
        "rediss://h?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required&ssl_check_hostname=false",
        "redis://h?client_name=lb&db=3",
        "unix:///run/valkey.sock",
        "unix://:pw@/run/valkey.sock?db=2",
        "redis+sentinel://a,b:26380,[::1]:26379/0/mymaster",
        "redis+sentinel://user:pw@a:1",
        "redis+cluster://user:pw@a,b:7000,[::1]",
    ],
)
def test_redis_urls_that_the_library_understands_are_taken(url: str) -> None:
    """Each scheme, with and without its options."""
    assert parse(f"redis: '{url}'", "c", {}).redis == url


def test_an_option_of_a_redis_url_that_is_given_twice_is_refused() -> None:
    """One reader takes the first, another the last."""
    assert (
        problem("redis: 'redis://h?db=4&db=3'") == "config.yaml:1: redis: 'redis://h?db=4&db=3' has the option db twice"
    )


def test_passwords_are_not_repeated() -> None:
    """What is printed ends in logs and in tickets."""
    assert problem("secret: 12345") == "config.yaml:1: secret: this value is not text; allowed: text (put it in quotes)"
    assert "hunter2" not in problem("lb:\n  admin_token: hunter2")
    assert "hunter2" not in problem("redis: 'redis://me:hunter2@h:port'")
    assert "me:***@h" in problem("redis: 'redis://me:hunter2@h:port'")
    for unescaped in ("hunter2/x", "hunter2@x", "x/y:hunter2@z", "x?hunter2"):
        told = problem(f"redis: 'redis://me:{unescaped}@h'")
        assert "hunter2" not in told
        assert "'redis://me:***@h'" in told
    assert "hunter2" not in problem("redis: 'redis://:hunter2/x@h'")
    assert problem(f"cluster: '{'A' * 100}'").startswith("config.yaml:1: cluster: 'AAAA")
    assert "A" * 60 not in problem(f"cluster: '{'A' * 100}'")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h:1",
        "http://",
        "http://h:0",
        "http://h:65536",
        "http://u:p@h:1",
        "http://h:1/x",
        "http://h:1?a",
        "http://a b:1",
        "h:1",
        "https://h",
    ],
)
def test_a_node_url_that_says_more_or_less_than_an_address_is_refused(url: str) -> None:
    """Nothing of it may be dropped silently."""
    told = f"config.yaml:1: nodes.static.0: '{url}' must be http://host:port, without user, path or query"
    assert problem(f"nodes: {{static: ['{url}']}}") == told


def test_node_urls_are_brought_into_one_shape() -> None:
    """Port 80 if none is given; IPv6 in brackets."""
    urls = parse("nodes: {static: [http://app, 'http://[fd00::1]:3000/', http://10.0.0.5:65535]}", "c", {}).nodes.static
    assert urls == ("http://app:80", "http://[fd00::1]:3000", "http://10.0.0.5:65535")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("0.0.0.0:0", Endpoint("0.0.0.0", 0)),
        ("[::1]:65535", Endpoint("::1", 65535)),
        ("localhost:80", Endpoint("localhost", 80)),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, endpoint: Endpoint) -> None:
    """IPv6 has brackets outside and none inside."""
    assert parse(f"lb: {{listen: '{text}'}}", "c", {}).lb.listen == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["::1:80", "[::1]", "h:65536", "h:", ":80", "h", "h/x:80", "a b:80"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """With an example of what is."""
    told = "must be host:port with a port from 0 to 65535, for example 0.0.0.0:8080 or [::]:8080"
    assert problem(f"lb: {{listen: '{text}'}}") == f"config.yaml:1: lb.listen: '{text}' {told}"


@pytest.mark.parametrize("path", ["healthz", "/a b", "/ä", "/a\\r\\nX: y"])
def test_a_probe_path_that_would_break_a_request_is_refused(path: str) -> None:
    """It is sent as it is."""
    assert "must begin with / and hold no spaces" in problem(f'lb: {{health: {{http_path: "{path}"}}}}')


class TestYaml:
    """Files that are not what YAML or we can read."""

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("lb:\n  listen: [", "2: not YAML: expected the node content, but found '<stream end>'"),
            ("a: 1\nb: c: d", "2: not YAML: mapping values are not allowed here"),
            ("lb:\n\tlisten: x", "2: not YAML: found character '\\t' that cannot start any token"),
            ("lb: *nope", "1: not YAML: found undefined alias 'nope'"),
            ("a: 1\n---\nb: 2", "2: not YAML: expected a single document in the stream, but found another document"),
            ("a: 1\nb: '\x01'", "2: not YAML: the character #x0001 is not allowed"),
            ("a: " + "[" * 5_000, "1: not YAML: nested too deeply"),
            ("- 1\n- 2", f"1: must be a mapping of keys to values; allowed keys: {SECTIONS}"),
            ("hello", f"1: must be a mapping of keys to values; allowed keys: {SECTIONS}"),
            ("lb:\n  ? [a, b]\n  : 1", "2: lb: a key is a list or a mapping; allowed: a word"),
            ("lb: !!int x", "1: lb: 'x' cannot be read: invalid literal for int"),
            ("secret: !ruby x", "1: secret: 'x' cannot be read: could not determine a constructor for the tag '!ruby'"),
        ],
    )
    def test_is_told_with_its_line(self, text: str, told: str) -> None:
        """One sentence, no traceback."""
        assert problem(text).startswith(f"config.yaml:{told}")

    def test_a_file_that_refers_to_itself_ends(self) -> None:
        """An alias inside its own anchor is an endless tree."""
        assert problem("lb: &a\n  cookie: *a") == "config.yaml:1: lb: nested too deeply, or too large"

    def test_a_few_lines_that_mean_gigabytes_end(self) -> None:
        """Each list holds ten times the one before."""
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, MOST_DEPTH)]
        assert any(told.endswith("nested too deeply, or too large") for told in problems("\n".join(lines)))

    def test_a_dangerous_tag_runs_nothing(self, tmp_path: Path) -> None:
        """YAML's way to call Python is not offered."""
        mark = tmp_path / "mark"
        told = problems(f"cluster: !!python/object/apply:os.system ['touch {mark}']")
        assert told
        assert not mark.exists()

    @pytest.mark.parametrize(
        "text", ["", "\n", "# only a comment\n", "{}", "\ufeff# with a byte order mark\n", "---\n"]
    )
    def test_an_empty_file_is_the_defaults(self, text: str) -> None:
        """It runs the demo."""
        assert parse(text, "c", {}) == Config()

    def test_a_section_with_everything_commented_out_is_its_defaults(self) -> None:
        """`lb:` alone, or a key without a value."""
        assert parse("lb:\n  # workers: 3\nnodes:\n  local:\n", "c", {}) == Config()


class TestEnvironment:
    """`${VAR}` and `${VAR:-default}`."""

    def test_variables_are_put_in(self) -> None:
        """Several in one value, and typed as if they stood there."""
        text = "lb:\n  listen: ${HOST}:${PORT:-80}\n  workers: ${N}\n  cookie: {secure: '${NAME}x'}\n"
        text = text.replace("secure: '${NAME}x'", "name: '${NAME}x'")
        config = parse(text, "c", {"HOST": "h", "N": "4", "NAME": "n"})
        assert (config.lb.listen, config.lb.workers, config.lb.cookie.name) == (Endpoint("h", 80), 4, "nx")

    @pytest.mark.parametrize(("environ", "secret"), [({}, "d"), ({"S": ""}, "d"), ({"S": "x"}, "x")])
    def test_a_default_also_stands_in_for_an_empty_one(self, environ: dict[str, str], secret: str) -> None:
        """As in a shell."""
        assert parse("secret: ${S:-d}", "c", environ).secret == secret

    def test_an_empty_variable_without_default_is_empty_text(self) -> None:
        """It was set so."""
        assert parse('secret: "${S}"', "c", {"S": ""}).secret == ""

    def test_a_missing_variable_is_a_mistake_with_its_line(self) -> None:
        """And is told only once: what it would have been is not guessed at."""
        told = "config.yaml:2: redis: the environment has no REDIS; allowed: set it, or write ${REDIS:-default}"
        assert problem("nodes: {local: 0}\nredis: ${REDIS}\n") == told

    def test_a_wrong_value_from_the_environment_is_told_as_any_other(self) -> None:
        """At the line where it is used."""
        told = (
            "config.yaml:1: lb.workers: 'many' is neither a whole number nor auto;"
            " allowed: auto, or a whole number, without quotes"
        )
        assert problem("lb: {workers: $}".replace("$", '"${N}"'), N="many") == told

    @pytest.mark.parametrize("text", ["$S", "${", "${1X}", "$ {S}", "$"])
    def test_what_is_no_variable_stays(self, text: str) -> None:
        """Only the two forms are read."""
        assert parse(f"secret: '{text}'", "c", {"S": "x"}).secret == text

    def test_a_tag_says_more_than_the_look_of_a_value(self) -> None:
        """`!!str` and quotes make text of a number."""
        assert parse("secret: !!str 12345", "c", {}).secret == "12345"
        assert parse("secret: '${N}'", "c", {"N": "12345"}).secret == "12345"

    def test_a_doubled_dollar_is_one(self) -> None:
        """So that a secret may hold what looks like a variable."""
        assert parse("secret: 'a$${S}b'", "c", {"S": "x"}).secret == "a${S}b"


class TestRelationsAndMistakesTogether:
    """Relations between keys are judged as far as the keys could be read."""

    def test_a_relation_is_told_together_with_other_mistakes(self) -> None:
        """Nobody likes to run a check ten times."""
        told = problems("lb:\n  workers: 0\n  admin: 0.0.0.0:8080\n")
        assert [line.split(": ")[1] for line in told] == ["lb.workers", "lb.admin"]

    @pytest.mark.parametrize(
        "text",
        [
            "redis: none\nnodes: {local: x}",
            "redis: nothing\nnodes: {local: 0}",
            "redis: none\nnodes: {local: 0, static: [x]}",
            "redis: none\nnodes: 5",
            "nodes: {lease_s: x, heartbeat_s: 100}",
        ],
    )
    def test_no_relation_is_judged_from_a_default_that_stands_in_for_a_mistake(self, text: str) -> None:
        """Only the mistake itself is told."""
        assert len(problems(text)) == 1


class TestFile:
    """The file itself."""

    def test_paths_are_relative_to_it(self, tmp_path: Path) -> None:
        """`base` is its directory."""
        file = tmp_path / "my.yaml"
        file.write_text("cluster: mine", encoding="utf-8")
        loaded = load(file, {})
        assert (loaded.config.cluster, loaded.base, loaded.file) == ("mine", tmp_path, file)

    def test_without_a_name_config_yaml_is_read_if_it_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And else the defaults."""
        monkeypatch.chdir(tmp_path)
        assert (load(None, {}).config, load(None, {}).base, load(None, {}).file) == (Config(), tmp_path, None)
        (tmp_path / "config.yaml").write_text("cluster: found", encoding="utf-8")
        assert load(None, {}).config.cluster == "found"

    @pytest.mark.parametrize(
        ("content", "reason"), [(None, "No such file or directory"), (b"cluster: \xff\xfe", "not UTF-8")]
    )
    def test_one_that_cannot_be_read_is_one_line(self, tmp_path: Path, content: bytes | None, reason: str) -> None:
        """Named, as the mistake of a user that it is: exit code 2."""
        file = tmp_path / "gone.yaml"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            load(file, {})
        assert str(caught.value) == f"{file}: cannot be read: {reason}"
        assert caught.value.exit_code == 2

    def test_a_directory_is_no_file(self, tmp_path: Path) -> None:
        """One line again."""
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            load(tmp_path, {})

    def test_the_one_that_we_ship_says_what_the_defaults_are(self) -> None:
        """But for the demo's livelier metrics."""
        shipped = load(ROOT / "config.yaml", {}).config
        nodes = shipped.nodes.model_copy(update={"metrics_interval_s": Config().nodes.metrics_interval_s})
        assert shipped.model_copy(update={"nodes": nodes}) == Config()

    def test_the_one_that_we_ship_shows_every_key(self) -> None:
        """A key that is not in it is one that nobody finds."""
        text = (ROOT / "config.yaml").read_text(encoding="utf-8")
        keys = {key for section in Config().dumped().values() if isinstance(section, dict) for key in section}
        assert [key for key in sorted(keys | set(Config.model_fields)) if f"{key}:" not in text] == []


TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cs"]), max_size=40)


@given(TEXTS, st.sampled_from(Balance), st.sampled_from(Stickiness), st.integers(0, 5), st.floats(0.001, 1e6))
def test_what_is_written_for_children_is_read_back_alike(
    secret: str, balance: Balance, stickiness: Stickiness, local: int, drain_s: float
) -> None:
    """Whatever stands in it, dollars and braces included, and whatever the child's environment holds."""
    before = Config.model_validate(
        {
            "secret": secret + "${HOME}",
            "lb": {"balance": balance, "stickiness": stickiness, "drain_s": drain_s},
            "nodes": {"local": local, "static": ["http://a:1"]},
        }
    )
    assert parse(written(before), "c", {"HOME": "/elsewhere"}) == before


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_list_of_mistakes(text: str) -> None:
    """Never a traceback."""
    assert all(line.startswith("config.yaml:") for line in told_of(text))


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(Config.model_fields)), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted(Config.model_fields)), YAML_VALUES))
def test_any_values_are_a_configuration_or_a_list_of_mistakes(values: dict[str, object]) -> None:
    """Also of the wrong shape at every depth."""

    assert all(line.startswith("config.yaml:") for line in told_of(yaml.safe_dump(values)))
