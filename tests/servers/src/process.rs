//! A server program as a process: started, signalled, waited for.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for a server to start or to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Below the ports that the kernel gives to outgoing connections, so that a server that is stopped
/// finds its port free again.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Asks again and again until `probe` has something.
pub async fn until<T, F: AsyncFnMut() -> Option<T>>(
    what: &str,
    patience: Duration,
    pause: Duration,
    mut probe: F,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(
            started.elapsed() < patience,
            "{what}: not within {patience:?}"
        );
        tokio::time::sleep(pause).await;
    }
}

/// A port of the loopback that nobody listens on, and that the kernel gives to nobody: whoever releases it
/// finds it free again, unless another test is given it.
pub fn free_address() -> SocketAddr {
    loop {
        let port = rand::random_range(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener.local_addr().expect("it is bound");
        }
    }
}

/// A process, stopped or running. Nothing ends it at drop: its owner does.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts `command` in a process group of its own, with no file of this process but `log`, so
    /// that neither a signal to the tests nor its open files concern it.
    pub fn spawn(mut command: Command, log: &Path) -> Self {
        let stdout = File::create(log).expect("a log file");
        let stderr = stdout.try_clone().expect("a log file");
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program())))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// True when it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("wait for a child").is_some()
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) {
        send(self.id(), signal);
    }

    /// Sends a signal to it and to all its children: PostgreSQL has one for each connection. Returns
    /// when a signal to stop has stopped them: a thread may run on for a moment.
    pub fn signal_all(&self, signal: Signal) {
        for id in self.family() {
            send(id, signal);
            while signal == Signal::STOP && !has_stopped(id) {
                std::thread::yield_now();
            }
        }
    }

    /// It and its children.
    fn family(&self) -> Vec<u32> {
        let id = self.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace();
        let children = children.map(|child| child.parse().expect("a process id"));
        [id].into_iter().chain(children).collect()
    }

    /// Waits until it is gone.
    pub fn wait(&mut self) {
        self.0.wait().expect("wait for a child");
    }
}

/// Whether no thread of a process runs, also because there is none any more.
fn has_stopped(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task"))
        .into_iter()
        .flatten();
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        state.is_none_or(|state| matches!(state.trim().chars().next(), Some('T' | 'Z' | 'X')))
    })
}

fn send(id: u32, signal: Signal) {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    // It may have ended by itself.
    let _gone = kill_process(pid.expect("a process id"), signal);
}
