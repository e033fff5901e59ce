//! The configuration: the file, the environment over it, and one clear line about what is wrong.

use std::{collections::HashMap, fs, path::Path, process::Output};

use tempfile::TempDir;

use crate::support::process::{base_environment, command};

/// `im check-config` with a file of this text.
struct Check {
    folder: TempDir,
    environment: HashMap<String, String>,
}

impl Check {
    fn of(file: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("own.toml"), file).expect("write the file");
        let environment = base_environment(folder.path());
        Self {
            folder,
            environment,
        }
    }

    fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.insert(key.into(), value.into());
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
        command(self.folder.path(), &self.environment)
            .args(arguments)
            .output()
            .expect("the binary runs")
    }

    #[track_caller]
    fn assert_good(&self) {
        let output = self.run(&["check-config", "--config", "own.toml"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }

    /// Refused by `check-config` and by `serve` alike, in one line that has all of `words`.
    #[track_caller]
    fn assert_refused(&self, words: &[&str]) {
        for what in ["check-config", "serve"] {
            let output = self.run(&[what, "--config", "own.toml"]);
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{what}: {message}");
            let lines: Vec<_> = message.lines().filter(|l| !l.trim().is_empty()).collect();
            assert_eq!(lines.len(), 1, "one clear line: {message}");
            for word in words {
                assert!(message.contains(word), "{word:?} in {message}");
            }
        }
    }
}

#[test]
fn the_default_file_is_good_and_says_the_defaults() {
    let default = include_str!("../../im.toml");
    Check::of(default).assert_good();
    Check::of("").assert_good();
    Check::of("[session]\nidle_timeout_s = 700\n").assert_good();
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    Check::of("[session]\nidle_timeout = 5\n").assert_refused(&[
        "own.toml",
        "session.idle_timeout",
        "idle_timeout_s",
    ]);
    Check::of("[sessions]\nidle_timeout_s = 5\n").assert_refused(&["own.toml", "sessions"]);
    Check::of("[database]\nurl = \"sqlite://x.db\"\nuser = \"me\"\n").assert_refused(&[
        "own.toml",
        "database.user",
        "max_connections",
    ]);
}

#[test]
fn a_bad_value_is_refused_with_what_is_allowed() {
    let cases: [(&str, &[&str]); 11] = [
        ("[listen]\ntcp = \"here\"\n", &["listen.tcp", "here"]),
        ("[listen]\ntcp = 8080\n", &["listen.tcp"]),
        (
            "[session]\nidle_timeout_s = \"long\"\n",
            &["session.idle_timeout_s"],
        ),
        (
            "[session]\nidle_timeout_s = -5\n",
            &["session.idle_timeout_s"],
        ),
        (
            "[session]\nidle_timeout_s = 0\n",
            &["session.idle_timeout_s"],
        ),
        (
            "[session]\nidle_timeout_s = 1.5\n",
            &["session.idle_timeout_s"],
        ),
        (
            "[log]\nformat = \"xml\"\n",
            &["log.format", "xml", "text", "json"],
        ),
        (
            "[database]\nsqlite_synchronous = \"off\"\n",
            &["database.sqlite_synchronous", "off", "full", "normal"],
        ),
        (
            "[users]\nprovider = \"ldap\"\n",
            &["users.provider", "builtin", "remote"],
        ),
        (
            "[sign_in]\ncode_sender = \"pigeon\"\n",
            &["sign_in.code_sender", "log", "webhook"],
        ),
        (
            "[database]\nurl = \"oracle://x\"\n",
            &["database.url", "sqlite"],
        ),
    ];
    for (file, words) in cases {
        let mut check = Check::of(file);
        // The environment must not hide what the file says.
        check.environment.remove("IM_DATABASE__URL");
        check
            .environment
            .retain(|key, _| !key.starts_with("IM_LISTEN__"));
        check.assert_refused(&[&["own.toml"], words].concat());
    }
}

#[test]
fn values_that_need_each_other_are_checked() {
    Check::of("[sign_in]\ncode_sender = \"webhook\"\n").assert_refused(&["sign_in.webhook_url"]);
    Check::of("[users]\nprovider = \"remote\"\n").assert_refused(&["users.endpoint"]);
    Check::of("")
        .env("IM_LISTEN__INTERNAL", "0.0.0.0:0")
        .assert_refused(&["internal.token"]);
    Check::of("[internal]\ntoken = \"s3cret\"\n")
        .env("IM_LISTEN__INTERNAL", "0.0.0.0:0")
        .assert_good();
}

#[test]
fn a_file_that_is_not_toml_is_refused() {
    Check::of("[session\nidle").assert_refused(&["own.toml"]);
}

#[test]
fn a_named_file_must_exist() {
    let check = Check::of("");
    for what in ["check-config", "serve", "migrate"] {
        let output = check.run(&[what, "--config", "missing.toml"]);
        assert_eq!(output.status.code(), Some(2), "{what}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("missing.toml"));
    }
}

#[test]
fn the_environment_goes_over_the_file() {
    Check::of("[session]\nidle_timeout_s = 30\n")
        .env("IM_SESSION__IDLE_TIMEOUT_S", "60")
        .assert_good();
    Check::of("[session]\nidle_timeout_s = 60\n")
        .env("IM_SESSION__IDLE_TIMEOUT_S", "soon")
        .assert_refused(&["IM_SESSION__IDLE_TIMEOUT_S"]);
}

#[test]
fn an_environment_key_that_does_not_exist_is_refused() {
    Check::of("")
        .env("IM_SESSION__IDLE_TIMEOUT", "60")
        .assert_refused(&["IM_SESSION__IDLE_TIMEOUT"]);
    Check::of("")
        .env("IM_SESSIONS__IDLE_TIMEOUT_S", "60")
        .assert_refused(&["IM_SESSIONS__IDLE_TIMEOUT_S"]);
}

/// Kubernetes sets these for a Service named im.
#[test]
fn other_variables_with_the_prefix_are_ignored() {
    Check::of("")
        .env("IM_SERVICE_HOST", "10.0.0.1")
        .env("IM_SERVICE_PORT", "8080")
        .env("IM_PORT_8080_TCP_ADDR", "10.0.0.1")
        .env("IM_PORT", "tcp://10.0.0.1:8080")
        .assert_good();
}

/// A text may look like something else.
#[test]
fn texts_that_look_like_numbers_are_texts() {
    for value in ["123456", "true", "1.5", "[1]", "0x10", ""] {
        Check::of("")
            .env("IM_SIGN_IN__TEST_CODE", value)
            .assert_good();
        Check::of("").env("IM_INTERNAL__TOKEN", value).assert_good();
    }
}

#[test]
fn im_config_names_the_file() {
    let check = Check::of("[session]\nidle_timeout = 5\n").env("IM_CONFIG", "own.toml");
    let output = check.run(&["check-config"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("own.toml"));
}

/// Without `--config`, `im.toml` in the working folder counts where it is there.
#[test]
fn the_file_in_the_working_folder_is_read() {
    let check = Check::of("");
    assert_eq!(check.run(&["check-config"]).status.code(), Some(0));
    write(check.folder.path(), "im.toml", "[log]\nformat = \"xml\"\n");
    let output = check.run(&["check-config"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("im.toml"));
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("write the file");
}
