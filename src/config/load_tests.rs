//! What the loading of a configuration promises, and one test per kind of refusal.

use std::{ffi::OsString, fs, path::Path};

use super::{super::keys::KEYS, *};

fn vars(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

/// Loads `text` as `im.toml` with an environment, and gives messages the file's name.
fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("im.toml");
    fs::write(&path, text).expect("write the file");
    load_from(Some(&path), Path::new("unused"), vars(environment)).map_err(|error| {
        let prefix = format!("{}/", folder.path().display());
        error.to_string().replace(&prefix, "")
    })
}

fn refusal(text: &str) -> String {
    load_text(text, &[]).expect_err(text)
}

fn env_refusal(name: &str, value: &str) -> String {
    load_text("", &[(name, value)]).expect_err(name)
}

#[test]
fn the_built_in_file_has_exactly_the_known_keys() {
    let mut in_file: Vec<String> = built_in()
        .values
        .iter()
        .flat_map(|(section, values)| {
            let values = values.as_dict().expect("a section");
            values.keys().map(move |name| format!("{section}.{name}"))
        })
        .collect();
    let mut known: Vec<String> = KEYS.iter().map(Key::path).collect();
    in_file.sort();
    known.sort();
    assert_eq!(in_file, known);
    assert_eq!(Config::default().session.idle_timeout_s, 660);
}

#[test]
fn words_that_are_allowed_are_understood() {
    for key in KEYS {
        let Rule::OneOf(words) = key.rule else {
            continue;
        };
        for word in words {
            let others = "users.endpoint = \"http://h:1\"\nsign_in.webhook_url = \"http://h\"\n\
                          jwt.secret = \"s\"";
            let text = format!("{} = {word:?}\n{others}", key.path());
            load_text(&text, &[]).expect(&text);
        }
    }
}

#[test]
fn origins_are_written_as_browsers_send_them() {
    let loaded = load_text(
        "http.allowed_origins = [\"https://a.example.com\", \"http://localhost:3000\", \"*\"]",
        &[],
    );
    assert_eq!(loaded.expect("valid").config.http.allowed_origins.len(), 3);
    for (found, file) in [
        ("https://a.example.com/", "[\"https://a.example.com/\"]"),
        ("https://A.example.com", "[\"https://A.example.com\"]"),
        ("a.example.com", "[\"a.example.com\"]"),
        (
            "https://a.example.com:443",
            "[\"https://a.example.com:443\"]",
        ),
        ("http://a.example.com:80", "[\"http://a.example.com:80\"]"),
    ] {
        let message = refusal(&format!("http.allowed_origins = {file}"));
        let expected = format!("http.allowed_origins: found {found:?}, allowed: a list of origins");
        assert!(message.contains(&expected), "{message}");
    }
    let message = refusal("webhooks.events = [\"message.read\"]");
    assert!(
        message.contains("found \"message.read\", allowed: a list of some of"),
        "{message}"
    );
}

#[test]
fn hooks_need_a_secret_and_an_answer_in_time() {
    let secret = "webhooks.secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"";
    for url in ["webhooks.url", "before_send.url"] {
        let url = format!("{url} = \"http://localhost/hook\"");
        load_text(&format!("{url}\n{secret}"), &[]).expect("valid");
        assert!(refusal(&url).contains("webhooks.secret: found \"\" where"));
    }
    for bad in [
        "whsec_",
        "whsec_AAAA",
        "whsec_!",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ] {
        let message = refusal(&format!("webhooks.secret = \"{bad}\""));
        assert!(message.contains("found text of another form"), "{message}");
    }
    let late = format!("before_send.url = \"http://h/\"\nbefore_send.timeout_ms = 3001\n{secret}");
    assert!(refusal(&late).contains("found 3001, allowed: a whole number from 1 to 3000"));
}

#[test]
fn tokens_are_checked_with_exactly_one_kind_of_key() {
    let jwt = "users.provider = \"jwt\"\njwt.secret = \"s\"";
    load_text(jwt, &[]).expect("valid");
    let message = refusal(&format!("{jwt}\njwt.public_key = \"key.pem\""));
    assert!(message.contains("found 2 of them"), "{message}");
}

#[test]
fn environment_wins_over_file_and_file_over_defaults() {
    let loaded = load_text(
        "[log]\nlevel = \"warn\"\nformat = \"json\"",
        &[
            ("IM_LOG__LEVEL", "debug"),
            ("IM_SESSION__IDLE_TIMEOUT_S", "7"),
        ],
    )
    .expect("valid");
    assert_eq!(loaded.config.log.level, "debug");
    assert_eq!(loaded.config.log.format, super::super::LogFormat::Json);
    assert_eq!(loaded.config.session.idle_timeout_s, 7);
    assert_eq!(loaded.config.session.sync_hold_s, 30);
    let origin = loaded.origin.to_string();
    assert!(
        origin.ends_with("im.toml, IM_SESSION__IDLE_TIMEOUT_S, IM_LOG__LEVEL"),
        "{origin}"
    );
}

#[test]
fn without_a_file_the_defaults_hold() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("im.toml");
    let loaded = load_from(None, &missing, vars(&[])).expect("valid");
    assert!(loaded.origin.file.is_none());
    assert_eq!(loaded.origin.to_string(), "the built-in defaults");
    fs::write(&missing, "log.level = \"warn\"").expect("write the file");
    let loaded = load_from(None, &missing, vars(&[])).expect("valid");
    assert_eq!(loaded.config.log.level, "warn");
}

#[test]
fn a_file_that_is_named_must_exist_and_be_text() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("other.toml");
    let error = |path: &Path| {
        load_from(Some(path), Path::new("unused"), vars(&[]))
            .expect_err("refused")
            .to_string()
    };
    assert!(
        error(&path).ends_with("other.toml: the configuration file cannot be read: no such file")
    );
    fs::write(&path, [0xff, 0xfe]).expect("write the file");
    assert!(error(&path).ends_with("it is not UTF-8 text"));
    assert!(error(folder.path()).contains("cannot be read"));
}

#[test]
fn environment_values_have_the_type_of_their_key() {
    for token in ["12345", "true", "[1]", "1.5", "\"quoted\""] {
        let loaded = load_text("", &[("IM_INTERNAL__TOKEN", token)]).expect(token);
        assert_eq!(loaded.config.internal.token, token);
    }
    assert_eq!(
        env_refusal("IM_DATABASE__MAX_CONNECTIONS", "many"),
        "IM_DATABASE__MAX_CONNECTIONS: database.max_connections: found \"many\", allowed: a whole \
         number from 1 to 9223372036854775807"
    );
    assert!(env_refusal("IM_SESSION__SYNC_HOLD_S", "0").contains("found 0,"));
    assert!(env_refusal("IM_SESSION__SYNC_HOLD_S", "").contains("found \"\","));
    assert!(env_refusal("IM_LISTEN__TCP", "8080").contains("found \"8080\","));
}

#[test]
fn lists_of_networks_are_set_by_file_and_by_environment() {
    let trusted = |loaded: Result<Loaded, String>| {
        let listen = loaded.expect("valid").config.listen;
        assert!(listen.forwarded_from.is_empty());
        listen.proxy_protocol_from
    };
    let name = "IM_LISTEN__PROXY_PROTOCOL_FROM";
    let file = "listen.proxy_protocol_from = [\"10.0.0.0/8\", \"::1\"]";
    let expected = trusted(load_text(file, &[]));
    assert!(expected.contains("10.1.2.3".parse().expect("an address")));
    for text in [
        "10.0.0.0/8,::1",
        " 10.0.0.0/8 , ::1, ",
        "[\"10.0.0.0/8\", '::1']",
    ] {
        assert_eq!(trusted(load_text("", &[(name, text)])), expected, "{text}");
    }
    for none in ["", " ", "[]"] {
        assert!(
            trusted(load_text(file, &[(name, none)])).is_empty(),
            "{none:?}"
        );
    }
    for (bad, found) in [
        ("localhost", "\"localhost\""),
        ("10.0.0.0/8 ::1", "\"10.0.0.0/8 ::1\""),
        ("10.0.0.0/33", "\"10.0.0.0/33\""),
        ("[10]", "10"),
        ("[10.0.0.1]", "\"[10.0.0.1]\""),
    ] {
        let message = env_refusal(name, bad);
        let path = "listen.proxy_protocol_from";
        assert!(
            message.starts_with(&format!("{name}: {path}: found {found}, allowed: a list")),
            "{message}"
        );
    }
    let message = refusal("listen.forwarded_from = \"10.0.0.1\"");
    assert!(
        message.contains("found \"10.0.0.1\", allowed: a list"),
        "{message}"
    );
}

#[test]
fn variables_that_name_no_key_are_refused_and_others_ignored() {
    let ignored = [
        ("IM_PORT_8080_TCP", "x"),
        ("IM_SERVICE_HOST", "x"),
        ("IM_CONFIG", "x"),
    ];
    load_text("", &ignored).expect("ignored");
    assert_eq!(
        env_refusal("IM_database__url", "x"),
        "IM_database__url: names no key, allowed: IM_DATABASE__URL"
    );
    assert_eq!(
        env_refusal("IM_LOG__LEVL", "x"),
        "IM_LOG__LEVL: names no key, allowed: IM_LOG__FORMAT, IM_LOG__LEVEL"
    );
    assert!(env_refusal("IM_LOGS__LEVEL", "x").starts_with("IM_LOGS__LEVEL: names no key"));
    assert!(env_refusal("IM___", "x").contains("with a section of LISTEN, "));
}

#[test]
fn unknown_sections_and_keys_are_refused() {
    assert!(refusal("[sesion]").starts_with("im.toml: sesion: no such section, allowed: listen, "));
    assert_eq!(
        refusal("[log]\nlevl = 1"),
        "im.toml: log.levl: no such key, allowed in [log]: format, level"
    );
    assert!(
        refusal("listen = 3").contains("listen: found a number without quotes, allowed: a section")
    );
}

#[test]
fn bad_values_are_refused_with_what_is_allowed() {
    for (text, found) in [
        ("listen.tcp = \"8080\"", "listen.tcp: found \"8080\""),
        (
            "listen.tcp = 8080",
            "listen.tcp: found a number without quotes",
        ),
        (
            "listen.tcp = \"localhost:8080\"",
            "listen.tcp: found \"localhost:8080\"",
        ),
        ("database.max_connections = 0", "found 0,"),
        ("database.max_connections = -1", "found -1,"),
        ("database.max_connections = 1.5", "found 1.5,"),
        ("database.max_connections = \"16\"", "found \"16\","),
        ("database.max_connections = [1]", "found a list,"),
        ("database.url = \"\"", "database.url: found \"\""),
        (
            "database.url = \"oracle://h\"",
            "found a URL that begins with oracle://, allowed: a URL \
          that begins with sqlite:// or mysql:// or postgres://",
        ),
        (
            "database.sqlite_synchronous = \"off\"",
            "found \"off\", allowed: \"full\" or \"normal\"",
        ),
        (
            "redis.url = \"localhost\"",
            "redis.url: found text that is no URL, allowed: \"\", or ",
        ),
        (
            "users.provider = \"ldap\"",
            "users.provider: found \"ldap\"",
        ),
        ("users.provider = \"remote\"", "users.endpoint: found \"\""),
        (
            "users.endpoint = \"h:1\"",
            "users.endpoint: found text that is no URL",
        ),
        (
            "sign_in.code_sender = \"webhook\"",
            "sign_in.webhook_url: found \"\"",
        ),
        (
            "sign_in.code_sender = \"Log\"",
            "sign_in.code_sender: found \"Log\"",
        ),
        (
            "internal.token = 12345",
            "internal.token: found a number without quotes",
        ),
        ("files.storage = \"\"", "files.storage: found \"\""),
        (
            "files.storage = \"gs://bucket\"",
            "files.storage: found \"gs://bucket\"",
        ),
        ("files.public_url = \"\"", "files.public_url: found \"\""),
        (
            "files.public_url = \"ftp://h\"",
            "files.public_url: found a URL that begins with ftp://",
        ),
        ("log.level = \"loud\"", "log.level: found \"loud\""),
        ("log.format = true", "log.format: found true or false"),
    ] {
        let message = refusal(text);
        assert!(message.starts_with("im.toml: "), "{message}");
        assert!(message.contains(found), "{text}: {message}");
        assert!(message.contains("allowed: "), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn every_positive_number_is_accepted() {
    for key in KEYS.iter().filter(|key| matches!(key.rule, Rule::Positive)) {
        for number in [1, i64::MAX] {
            load_text(&format!("{} = {number}", key.path()), &[]).expect("in the file");
            load_text("", &[(&key.variable(), &number.to_string())]).expect("by environment");
        }
        assert!(refusal(&format!("{} = 9223372036854775808", key.path())).contains("line 1"));
        assert!(env_refusal(&key.variable(), "9223372036854775808").contains("found \"92"));
    }
}

#[test]
fn syntax_errors_name_the_line_but_not_its_text() {
    let message = refusal("[internal]\n\ntoken = \"hunter2\n");
    assert!(message.starts_with("im.toml: line 3: "), "{message}");
    assert!(
        !message.contains("hunter2") && !message.contains('\n'),
        "{message}"
    );
    assert!(refusal("[log]\n[log]\n").starts_with("im.toml: line 2: "));
    let too_large = refusal("[session]\nidle_timeout_s = 9223372036854775808\n");
    assert!(
        too_large.starts_with("im.toml: line 2: session.idle_timeout_s: ")
            && too_large.contains("allowed: a whole number"),
        "{too_large}"
    );
}

#[test]
fn the_internal_listener_needs_a_token_beyond_loopback() {
    for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
        let text = format!("listen.internal = {address:?}");
        let message = refusal(&text);
        assert!(
            message.starts_with("im.toml: listen.internal: found "),
            "{message}"
        );
        load_text(&text, &[("IM_INTERNAL__TOKEN", "t")]).expect("with a token");
    }
    for address in ["127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        load_text(&format!("listen.internal = {address:?}"), &[]).expect(address);
    }
    let by_env = env_refusal("IM_LISTEN__INTERNAL", "0.0.0.0:1");
    assert!(
        by_env.starts_with("IM_LISTEN__INTERNAL: listen.internal: "),
        "{by_env}"
    );
}

#[test]
fn secrets_never_show() {
    let text = "database.url = \"postgres://im:hunter2@db/im?password=hunter2\"\n\
                redis.url = \"redis://:hunter2@cache\"\n\
                users.endpoint = \"http://im:hunter2@users\"\n\
                sign_in.webhook_url = \"https://hook/?key=hunter2\"\n\
                sign_in.test_code = \"hunter2\"\n\
                internal.token = \"hunter2\"";
    let loaded = load_text(text, &[]).expect("valid");
    let shown = format!("{loaded:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    for bad in [
        "database.url = \"hunter2\"",
        "database.url = \"oracle://im:hunter2@db\"",
        "redis.url = \"im:hunter2@cache\"",
        "sign_in.webhook_url = \"http://im:hunter2@ho st\"",
        "internal.token = [\"hunter2\"]",
        "internal.token.hunter = \"hunter2\"",
    ] {
        let message = refusal(bad);
        assert!(!message.contains("hunter2"), "{message}");
    }
}
