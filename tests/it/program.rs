//! The program as an operator runs it: its commands and their exit codes.

use std::{
    process::{Command, Output},
    sync::Arc,
};

use test_servers::{Database, Engine};

use crate::support::{
    Process, Transport,
    messages::text,
    process::{base_environment, command},
    wait::eventually,
};

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_helps() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(command(folder.path(), &base_environment(folder.path())).arg("--help"));
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for command in [
        "serve",
        "migrate",
        "check-config",
        "epoch",
        "healthcheck",
        "--config",
    ] {
        assert!(text.contains(command), "{command} in\n{text}");
    }
}

#[test]
fn bad_usage_is_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let environment = base_environment(folder.path());
    for arguments in [&["fly"][..], &["serve", "--fast"], &["epoch", "rewind"]] {
        let output = run(command(folder.path(), &environment).args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn migrations_run_by_themselves_and_twice_is_once() {
    let mut server = Process::start().await;
    let alice = server.new_user().await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));
    for _ in 0..2 {
        let output = server.run(&["migrate"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    server.start_again().await;
    assert!(server.token_lives(&alice).await, "the data is untouched");
}

#[test]
fn migrate_makes_a_sqlite_file_where_there_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(command(folder.path(), &base_environment(folder.path())).arg("migrate"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(folder.path().join("im.db").exists());
}

#[tokio::test]
async fn healthcheck_tells_by_its_exit_code() {
    let mut server = Process::start().await;
    eventually("it is healthy", async || {
        let output = server.run(&["healthcheck"]);
        // Of the server, or of its database, on a busy machine.
        let is_busy = stderr(&output).contains("does not answer");
        assert!(output.status.success() || is_busy, "{output:?}");
        output.status.success().then_some(())
    })
    .await;
    server.kill();
    let output = server.run(&["healthcheck"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!output.stderr.is_empty());
}

#[tokio::test]
async fn a_second_process_on_the_same_sqlite_file_is_refused() {
    let server = Process::on(Arc::new(Database::of(Engine::Sqlite).await), &[]).await;
    let mut environment = base_environment(std::path::Path::new("/nowhere"));
    environment.insert("IM_DATABASE__URL".into(), server.database_url());
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(command(folder.path(), &environment).arg("serve"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = stderr(&output);
    assert!(
        message.contains("database.url") && message.contains("im.db"),
        "{message}"
    );
    // The first goes on.
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut session = server.connect(Transport::Tcp, &bob).await;
    server.send(&alice, text(bob.user_id, "x")).await;
    assert_eq!(session.push().await.seq, 1);
}

/// What means something in a URL means nothing in the path of a file.
#[tokio::test]
async fn a_sqlite_file_with_an_odd_name_is_one_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a%20b #1.db");
    let url = format!("sqlite://{}", file.display());
    let server = Process::with(&[("IM_DATABASE__URL", &url)]).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    server.send(&alice, text(bob.user_id, "x")).await;
    assert_eq!(server.timeline(&bob).await.len(), 1);
    assert!(file.exists());
}

#[tokio::test]
async fn an_address_in_use_is_refused_by_key_and_address() {
    let server = Process::start().await;
    let taken = [
        ("tcp", server.addresses.tcp),
        ("http", server.addresses.http),
        ("grpc", server.addresses.grpc),
        ("internal", server.addresses.internal),
        ("metrics", server.addresses.metrics),
    ];
    for (listener, address) in taken {
        let folder = tempfile::tempdir().expect("a folder");
        let mut environment = base_environment(folder.path());
        let key = format!("IM_LISTEN__{}", listener.to_uppercase());
        environment.insert(key, address.to_string());
        let output = run(command(folder.path(), &environment).arg("serve"));
        assert_eq!(output.status.code(), Some(1), "{listener}: {output:?}");
        let message = stderr(&output);
        let key = format!("listen.{listener}");
        assert!(message.contains(&key), "{key} in {message}");
        assert!(
            message.contains(&address.to_string()),
            "{address} in {message}"
        );
    }
}

/// The start says on which database, and warns of a code that opens every account.
#[tokio::test]
async fn the_start_tells_what_it_runs_on() {
    let server = Process::start().await;
    let name = server.database_url();
    let name = name.rsplit('/').next().expect("a URL ends in a name");
    server
        .logged("the database", |line| line.contains(name))
        .await;
    server
        .logged("the warning", |line| {
            line.contains("test_code") && line.to_uppercase().contains("WARN")
        })
        .await;
}
