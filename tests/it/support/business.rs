//! A business server that keeps the accounts: `examples/business.py`, as a process of its own.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use im::config::{Config, UserProvider};

use super::{Api, Device, wait::eventually};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/business.py");

/// A running business server; it is killed at drop.
pub struct Business {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    address: SocketAddr,
}

impl Business {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0").await
    }

    async fn at(listen: &str) -> Self {
        let mut child = Command::new(interpreter())
            .args([PROGRAM, "--listen", listen])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the business server starts");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (stdout, sink) = (child.stdout.take().expect("piped"), Arc::clone(&lines));
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().expect("no panic under the lock").push(line);
            }
        });
        let address = eventually("the business server listens", async || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("examples/business.py ended: {status}");
            }
            let lines = lines.lock().expect("no panic under the lock");
            let address = lines
                .iter()
                .find_map(|line| line.strip_prefix("listening on "))?;
            Some(address.parse().expect("an address"))
        });
        let address = address.await;
        Self {
            child,
            lines,
            address,
        }
    }

    /// What `users.endpoint` is.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A configuration with the accounts there, and what it said remembered for very long.
    pub fn keeps_users(&self, config: &mut Config) {
        config.users.provider = UserProvider::Remote;
        config.users.endpoint = self.endpoint();
        config.users.auth_cache_s = 3_600;
        config.users.profile_cache_s = 3_600;
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("it is gone");
    }

    /// Starts it again at the same address; what it was asked is counted anew.
    pub async fn start_again(&mut self) {
        *self = Self::at(&self.address.to_string()).await;
    }

    /// How many times it was asked something, as `Auth 1`: all calls that it has told of.
    pub fn calls(&self, call: &str) -> usize {
        let lines = self.lines.lock().expect("no panic under the lock");
        lines.iter().filter(|line| *line == call).count()
    }

    /// Waits until it has been asked something so many times.
    pub async fn called(&self, call: &str, times: usize) {
        eventually(call, async || (self.calls(call) >= times).then_some(())).await;
        assert_eq!(self.calls(call), times, "{call}");
    }

    /// Renames a user.
    pub async fn rename(&mut self, user_id: i64, name: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        writeln!(stdin, "{user_id} {name}").expect("it reads");
        let done = format!("renamed {user_id}");
        eventually(&done, async || (self.calls(&done) > 0).then_some(())).await;
    }
}

impl Drop for Business {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

impl Api {
    /// A new device of a user of the business server.
    pub async fn device_of(&self, user_id: i64) -> Device {
        Device {
            user_id,
            device_id: self.register_device().await,
            token: format!("token-of-{user_id}"),
            phone_number: String::new(),
        }
    }

    /// The value of a metric, named with its labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let page = super::http::get(self.addresses.metrics, "/metrics").await;
        let value = page.body.lines().find_map(|line| {
            let (found, value) = line.rsplit_once(' ')?;
            (found == name).then(|| value.parse().expect("a number"))
        });
        value.unwrap_or_else(|| panic!("{name} in {}", page.body))
    }
}

/// A Python that has what the example imports.
fn interpreter() -> &'static str {
    let has_it = |python: &&str| {
        Command::new(python)
            .args(["-c", "import grpc, grpc_tools.protoc"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(has_it)
        .expect(
            "no python3 with grpcio and grpcio-tools, which examples/business.py needs: \
             pip install grpcio grpcio-tools, or apt install python3-grpcio python3-grpc-tools",
        )
}
