//! The servers that all tests of a run share. The first test that needs one starts it, detached, and
//! notes where it listens; the run's watchdog ends it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    process::{PATIENCE, Process, free_address, until},
    program::Program,
    run::Run,
};

/// Two tests may draw the same free port; then one of them draws again.
const TRIES: usize = 5;

/// Where the run's `program` listens.
pub async fn address(program: Program) -> SocketAddr {
    let run = Run::get().await;
    let name = program.name();
    let noted = run.note(&format!("{name}.address"));
    let read = || fs::read_to_string(&noted).ok().and_then(|a| a.parse().ok());
    if let Some(address) = read() {
        return address;
    }
    let _turn = run.turn(name).await;
    if let Some(address) = read() {
        return address;
    }
    let data = run.data().join(name);
    copy_template(program, &run, &data);
    let (process, address) = start(program, &data, |command| command).await;
    let pid = run.note(&format!("{name}.pid"));
    fs::write(pid, process.id().to_string()).expect("note the process");
    fs::write(&noted, address.to_string()).expect("note the address");
    address
}

/// The data of an empty server, as a copy of what was prepared once for the run.
pub async fn fresh_data(program: Program) -> PathBuf {
    let run = Run::get().await;
    let _turn = run.turn(program.name()).await;
    let name = format!("{}-{:016x}", program.name(), rand::random::<u64>());
    let data = run.data().join(name);
    copy_template(program, &run, &data);
    data
}

/// Starts `program` as `wrap` says and waits until it answers. Its log is beside its data.
pub async fn start(
    program: Program,
    data: &Path,
    wrap: impl Fn(Command) -> Command,
) -> (Process, SocketAddr) {
    for _ in 0..TRIES {
        let address = free_address();
        if let Some(process) = start_at(program, data, address, &wrap).await {
            return (process, address);
        }
    }
    panic!("{}: {}", program.name(), said(data));
}

/// Starts `program` at `address`; `None` when it ended instead of answering.
pub async fn start_at(
    program: Program,
    data: &Path,
    address: SocketAddr,
    wrap: impl Fn(Command) -> Command,
) -> Option<Process> {
    let command = wrap(program.serve(data, address));
    let mut process = Process::spawn(command, &log(data));
    let what = format!("{} answers", program.name());
    until(&what, PATIENCE, Duration::from_millis(10), async || {
        if process.has_ended() {
            return Some(false);
        }
        program.answers(address).await.then_some(true)
    })
    .await
    .then_some(process)
}

/// What the server last said.
pub fn said(data: &Path) -> String {
    fs::read_to_string(log(data)).unwrap_or_default()
}

fn log(data: &Path) -> PathBuf {
    data.with_extension("log")
}

/// Called in the program's turn.
fn copy_template(program: Program, run: &Run, to: &Path) {
    let template = run.data().join(format!("{}-template", program.name()));
    if !template.exists() {
        let unfinished = template.with_extension("unfinished");
        program.initialize(&unfinished);
        fs::rename(&unfinished, &template).expect("rename a folder");
    }
    let copied = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .args([&template, &to.to_path_buf()])
        .status();
    assert!(copied.expect("cp runs").success(), "copy {template:?}");
}
