//! The kit itself: servers start, are shared, end and come back, and the relay does what it says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use test_servers::{Database, Engine, Private, Program, Proxy, RedisSpace, Way};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what would come at once, and must not.
const MOMENT: Duration = Duration::from_millis(300);
const ALL: [Engine; 3] = [Engine::Sqlite, Engine::Mysql, Engine::Postgres];

#[tokio::test]
async fn each_test_has_an_empty_database_of_each_engine() {
    for engine in ALL {
        let (one, other) = (Database::of(engine).await, Database::of(engine).await);
        assert_ne!(one.url(), other.url());
        for database in [&one, &other] {
            let rows = database.connect().await;
            rows.execute("CREATE TABLE t (n BIGINT)").await;
            assert_eq!(rows.execute("INSERT INTO t VALUES (7)").await, 1);
            assert_eq!(rows.number("SELECT n FROM t").await, 7);
        }
    }
}

#[tokio::test]
async fn a_dropped_database_is_gone_also_while_it_is_open() {
    for engine in [Engine::Mysql, Engine::Postgres] {
        let database = Database::of(engine).await;
        let (_open, url) = (database.connect().await, database.url().to_owned());
        let name = url.rsplit('/').next().expect("a name").to_owned();
        drop(database);
        let witness = Database::of(engine).await;
        let other = witness.connect().await;
        let table = match engine {
            Engine::Postgres => "pg_database WHERE datname",
            _ => "information_schema.schemata WHERE schema_name",
        };
        let count = format!("SELECT count(*) FROM {table} = '{name}'");
        assert_eq!(other.number(&count).await, 0, "{engine:?}");
    }
}

#[tokio::test]
async fn a_killed_database_keeps_what_it_confirmed() {
    for program in [Program::Mariadb, Program::Postgres] {
        let mut server = Private::start(program).await;
        let database = Database::on(&server).await;
        let rows = database.connect().await;
        rows.execute("CREATE TABLE t (n BIGINT)").await;
        rows.execute("INSERT INTO t VALUES (7)").await;
        server.kill();
        server.start_again().await;
        let rows = database.connect().await;
        assert_eq!(rows.number("SELECT n FROM t").await, 7);
        server.stop().await;
        server.start_again().await;
        assert_eq!(database.connect().await.number("SELECT n FROM t").await, 7);
    }
}

#[tokio::test]
async fn a_paused_server_answers_when_it_goes_on() {
    for program in [Program::Mariadb, Program::Postgres] {
        let server = Private::start(program).await;
        let database = Database::on(&server).await;
        let rows = database.connect().await;
        server.pause();
        let answer = rows.number("SELECT 7");
        tokio::pin!(answer);
        let early = tokio::time::timeout(Duration::from_millis(200), &mut answer).await;
        assert!(early.is_err(), "{program:?} answered {early:?}");
        server.resume();
        assert_eq!(answer.await, 7);
    }
}

#[tokio::test]
async fn a_private_redis_comes_back_at_its_port() {
    let mut server = Private::start(Program::Redis).await;
    let shared = RedisSpace::fresh().await;
    assert_ne!(shared.prefix(), RedisSpace::fresh().await.prefix());
    assert_ne!(server.address(), shared.address());
    server.kill();
    assert!(TcpStream::connect(server.address()).await.is_err());
    server.start_again().await;
    assert!(TcpStream::connect(server.address()).await.is_ok());
}

/// Answers every byte with itself.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.into_split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

/// Whether a byte comes back within `patience`.
async fn answered(socket: &mut TcpStream, patience: Duration) -> bool {
    let mut byte = [0];
    let asked = async {
        socket.write_all(b"x").await?;
        socket.read_exact(&mut byte).await
    };
    let answer = tokio::time::timeout(patience, asked).await;
    answer.is_ok_and(|read| read.is_ok())
}

#[tokio::test]
async fn a_relay_passes_cuts_and_comes_back() {
    let proxy = Proxy::to(echo().await).await;
    let mut socket = TcpStream::connect(proxy.address()).await.expect("open");
    assert!(answered(&mut socket, PATIENCE).await);
    proxy.cut().await;
    assert_eq!(socket.read(&mut [0]).await.unwrap_or(0), 0, "it is closed");
    assert!(TcpStream::connect(proxy.address()).await.is_err());
    proxy.resume().await;
    let mut socket = TcpStream::connect(proxy.address()).await.expect("open");
    assert!(answered(&mut socket, PATIENCE).await);
}

#[tokio::test]
async fn a_relay_swallows_in_each_direction() {
    let proxy = Proxy::to(echo().await).await;
    for (to_server, to_client) in [
        (Way::Swallow, Way::Swallow),
        (Way::Swallow, Way::Pass),
        (Way::Pass, Way::Swallow),
    ] {
        proxy.resume().await;
        let mut before = TcpStream::connect(proxy.address()).await.expect("open");
        assert!(answered(&mut before, PATIENCE).await);
        proxy.ways(to_server, to_client).await;
        let mut during = TcpStream::connect(proxy.address()).await.expect("open");
        assert!(!answered(&mut before, MOMENT).await);
        assert!(!answered(&mut during, MOMENT).await);
        proxy.resume().await;
        assert_eq!(before.read(&mut [0]).await.unwrap_or(0), 0, "it lost bytes");
    }
}

#[tokio::test]
async fn a_relay_delays_without_narrowing() {
    const DELAY: Duration = Duration::from_millis(200);
    // A hundred chunks at least, as it reads 16 KiB at a time: twenty seconds one after the other.
    const BYTES: usize = 100 * 16 * 1_024;
    let proxy = Proxy::to(echo().await).await;
    proxy.delay(DELAY).await;
    let socket = TcpStream::connect(proxy.address()).await.expect("open");
    let (mut read, mut write) = socket.into_split();
    let (sent, mut echoed) = (vec![b'x'; BYTES], vec![0; BYTES]);
    let started = Instant::now();
    let (written, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut echoed));
    let elapsed = started.elapsed();
    written.expect("write");
    read.expect("read");
    assert!(elapsed >= 2 * DELAY, "{elapsed:?}");
    assert!(
        elapsed < Duration::from_secs(10),
        "one after the other: {elapsed:?}"
    );
}
