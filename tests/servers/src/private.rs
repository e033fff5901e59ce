//! A server that belongs to one test, which may kill, stop, pause and start it. It keeps its port and
//! its data, and dies with the test.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use rustix::process::Signal;

use crate::{
    process::{PATIENCE, Process, until},
    program::{self, Program},
    shared,
};

/// A server of one test; it is killed at drop.
#[derive(Debug)]
pub struct Private {
    program: Program,
    data: PathBuf,
    address: SocketAddr,
    process: Option<Process>,
}

impl Private {
    /// Starts a server without data.
    pub async fn start(program: Program) -> Self {
        let data = shared::fresh_data(program).await;
        let (process, address) = shared::start(program, &data, |c| mortal(program, &c)).await;
        Self {
            program,
            data,
            address,
            process: Some(process),
        }
    }

    /// Which program it is.
    #[must_use]
    pub const fn program(&self) -> Program {
        self.program
    }

    /// Where it listens, always.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that reaches it: of the database that is always there, or of Redis.
    #[must_use]
    pub fn url(&self) -> String {
        let database = self.program.first_database();
        self.program.url(self.address, database)
    }

    /// Ends it as a crash would. What it has confirmed is kept, but by Redis.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal_all(Signal::CONT);
            process.signal(self.program.kill_signal());
            process.wait();
        }
    }

    /// Ends it in good order.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(self.program.stop_signal());
        until(
            "it stops",
            PATIENCE,
            Duration::from_millis(10),
            async || process.has_ended().then_some(()),
        )
        .await;
    }

    /// Starts it again at the same address, on the same data, and waits until it answers.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let (program, data, address) = (self.program, &self.data, self.address);
        // PostgreSQL waits for the children of the killed one to be gone.
        let process = until("a start", PATIENCE, Duration::from_millis(50), async || {
            shared::start_at(program, data, address, |c| mortal(program, &c)).await
        });
        self.process = Some(process.await);
    }

    /// Holds it still: it keeps its connections and answers nobody.
    pub fn pause(&self) {
        self.running().signal_all(Signal::STOP);
    }

    /// Lets it go on after a pause.
    pub fn resume(&self) {
        self.running().signal_all(Signal::CONT);
    }

    /// Makes Redis forget everything.
    pub async fn flush(&self) {
        assert_eq!(self.program, Program::Redis, "only Redis is flushed");
        let flushed = program::ask_redis(self.address, "FLUSHALL").await;
        assert_eq!(flushed.expect("Redis answers"), "+OK");
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.kill();
        let _watchdog_does_it = fs::remove_dir_all(&self.data);
    }
}

/// The same command, ended by the kernel when the thread that starts it ends. It is set by a program
/// between, because the kernel forgets it where the account changes.
fn mortal(program: Program, command: &Command) -> Command {
    let signal = match program {
        Program::Postgres => "QUIT",
        Program::Mariadb | Program::Redis => "KILL",
    };
    let mut mortal = Command::new("setpriv");
    mortal.args(["--pdeathsig", signal]);
    if let Some(account) = program.account() {
        mortal
            .arg(format!("--reuid={}", account.uid))
            .arg(format!("--regid={}", account.gid))
            .arg("--clear-groups");
    }
    mortal
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir("/");
    mortal
}
