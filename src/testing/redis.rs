//! A Redis server of a test's own, which can be stopped, restarted, frozen and cut off.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

/// How long a test waits for what must come.
const LONG: Duration = Duration::from_secs(20);

/// Between two looks whether it has come.
const PAUSE: Duration = Duration::from_millis(5);
/// Below the ports that the kernel gives to outgoing connections, as are those of the bus of a Redis
/// Cluster, 10,000 above, so that a server that is started again finds its port free.
const PORTS: Range<u16> = 12_000..22_000;

/// A server on a port of its own.
pub struct RedisServer {
    port: u16,
    arguments: &'static [&'static str],
    child: Option<Child>,
    folder: TempDir,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A Redis Cluster of one node.
    pub async fn cluster() -> Self {
        let node = Self::cluster_node().await;
        node.ask("CLUSTER ADDSLOTSRANGE 0 16383").await;
        node.until_well(1).await;
        node
    }

    /// A Redis Cluster of two nodes with half of the slots each.
    pub async fn cluster_of_two() -> [Self; 2] {
        let nodes = [Self::cluster_node().await, Self::cluster_node().await];
        for (node, (epoch, slots)) in nodes.iter().zip([(1, "0 8191"), (2, "8192 16383")]) {
            node.ask(&format!("CLUSTER SET-CONFIG-EPOCH {epoch}")).await;
            node.ask(&format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
        }
        let meet = format!("CLUSTER MEET 127.0.0.1 {}", nodes[1].port);
        nodes[0].ask(&meet).await;
        for node in &nodes {
            node.until_well(2).await;
        }
        nodes
    }

    async fn cluster_node() -> Self {
        Self::with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-announce-ip",
            "127.0.0.1",
        ])
        .await
    }

    /// Waits until a node knows who has all slots of a cluster of so many.
    async fn until_well(&self, nodes: usize) {
        let is_well = async {
            loop {
                let info = self.ask("CLUSTER INFO").await;
                let of_all = format!("cluster_size:{nodes}\r\n");
                if info.contains("cluster_state:ok") && info.contains(&of_all) {
                    return;
                }
                sleep(PAUSE).await;
            }
        };
        timeout(LONG, is_well).await.expect("the cluster is well");
    }

    /// The slot of a Redis Cluster that a name is in.
    pub async fn slot(&self, name: &str) -> u16 {
        let answer = self.ask(&format!("CLUSTER KEYSLOT {name}")).await;
        answer[1..].trim().parse().expect("a number")
    }

    /// Moves an empty slot to another node, as resharding does.
    pub async fn move_slot(&self, slot: u16, to: &Self) {
        let (own, other) = (self.node_id().await, to.node_id().await);
        for (node, state) in [
            (to, format!("IMPORTING {own}")),
            (self, format!("MIGRATING {other}")),
            (to, format!("NODE {other}")),
            (self, format!("NODE {other}")),
        ] {
            let answer = node.ask(&format!("CLUSTER SETSLOT {slot} {state}")).await;
            assert_eq!(answer, "+OK\r\n", "{state}");
        }
    }

    async fn node_id(&self) -> String {
        let answer = self.ask("CLUSTER MYID").await;
        answer.lines().nth(1).expect("a bulk string").to_owned()
    }

    async fn with(arguments: &'static [&'static str]) -> Self {
        // Two tests may draw one port before either uses it.
        for _ in 0..100 {
            let port = rand::random_range(PORTS);
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .await
                .is_err()
            {
                continue;
            }
            let mut server = Self {
                port,
                arguments,
                child: None,
                folder: tempfile::tempdir().unwrap(),
            };
            if server.up().await {
                return server;
            }
        }
        panic!("no Redis could be started");
    }

    /// Starts it, again if need be. Returns whether it answers.
    pub async fn up(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .args(self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("redis-server is installed");
        // Another one's may be on the port, and this one about to end.
        let own = format!("process_id:{}\r\n", child.id());
        let answers = async {
            loop {
                if child.try_wait().unwrap().is_some() {
                    return false;
                }
                let info = self.try_ask("INFO server").await;
                if info.is_some_and(|info| info.contains(&own)) {
                    return true;
                }
                sleep(PAUSE).await;
            }
        };
        let answers = timeout(LONG, answers).await.expect("Redis starts");
        self.child = Some(child);
        answers
    }

    /// Kills it.
    pub fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            // One that is gone already is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Freezes it: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it runs");
        let kill = Command::new("kill")
            .args([&format!("-{name}"), &child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn cluster_url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.port)
    }

    /// Its answer to a command, as it stands on the wire.
    pub async fn ask(&self, command: &str) -> String {
        self.try_ask(command).await.expect("Redis answers")
    }

    async fn try_ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .await
            .ok()?;
        let line = format!("{command}\r\n");
        stream.write_all(line.as_bytes()).await.ok()?;
        let mut answer = vec![0; 16 * 1024];
        let len = stream.read(&mut answer).await.ok()?;
        answer.truncate(len);
        String::from_utf8(answer).ok()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.down();
    }
}

/// Stands between a client and a server, and can swallow what they say.
pub struct Proxy {
    address: SocketAddr,
    swallows: watch::Sender<bool>,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn before(server: &RedisServer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (swallows, swallowing) = watch::channel(false);
        let port = server.port;
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        crate::lifecycle::Tasks::default().spawn(async move {
            let tasks = Arc::new(crate::lifecycle::Tasks::default());
            while let Ok((client, _)) = listener.accept().await {
                let swallowing = swallowing.clone();
                counter.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(async move {
                    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
                        return;
                    };
                    let (client, server) = (client.into_split(), server.into_split());
                    tokio::join!(
                        pass(client.0, server.1, swallowing.clone()),
                        pass(server.0, client.1, swallowing),
                    );
                });
            }
        });
        Self {
            address,
            swallows,
            connections,
        }
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// From now on nothing passes on connections that are open or come, and nobody is told.
    pub fn swallow(&self) {
        self.swallows.send_replace(true);
    }

    /// New connections pass again; those that were cut off stay so.
    pub fn pass(&self) {
        self.swallows.send_replace(false);
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut swallowing: watch::Receiver<bool>,
) {
    let swallows = async {
        // It ends with the test.
        let _ = swallowing.wait_for(|swallows| *swallows).await;
    };
    tokio::select! {
        _ = copy(&mut from, &mut to) => return,
        () = swallows => {}
    }
    // The peers see neither data nor an end.
    let _ = copy(&mut from, &mut tokio::io::sink()).await;
    std::future::pending::<()>().await;
}
