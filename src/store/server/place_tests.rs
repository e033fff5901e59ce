//! Who may be at work on a database, and who may change its schema.

use std::time::{Duration, Instant};

use test_servers::{Database, Engine, Private, Proxy};
use tokio::time::timeout;

use super::Server;
use crate::{
    error::Result,
    limits::{
        ATTEMPT_MAX, DATABASE_PING_MAX, PLACE_PING_INTERVAL, PLACE_SILENCE_MAX, PLACE_WAIT_MAX,
    },
    store::{self, Held, Store},
    testing::{on_each_server, open_store_at},
};

/// How long a test waits for what must come.
const LONG: Duration = Duration::from_secs(30);

/// Takes a place once the server has seen that those before have gone, however long it takes.
async fn until_taken(store: &Store, is_alone: bool) -> Held {
    let taking = async {
        loop {
            if let Ok(held) = store.take_place(is_alone).await {
                return held;
            }
        }
    };
    timeout(LONG, taking).await.expect("it is free")
}

/// Who is alone and who is not, of two instances.
async fn instance_that_is_alone_refuses_others_and_is_refused(engine: Engine) {
    let database = Database::of(engine).await;
    let (one, other) = (
        open_store_at(database.url().into()).await,
        open_store_at(database.url().into()).await,
    );
    for (first, second, fits) in [
        (true, true, false),
        (true, false, false),
        (false, true, false),
        (false, false, true),
    ] {
        let held = until_taken(&one, first).await;
        let begun = Instant::now();
        let taken = other.take_place(second).await;
        assert_eq!(taken.is_ok(), fits, "alone: {first}, {second}");
        // One that has just died is waited for.
        assert!(fits || begun.elapsed() >= PLACE_WAIT_MAX);
        drop((held, taken));
    }
    let held = until_taken(&one, true).await;
    tokio::join!(until_taken(&other, true), async { drop(held) });
    one.close().await;
    other.close().await;
}

/// Its own former session does not stand in its way.
async fn place_outlives_the_database(engine: Engine) {
    let mut server = Private::start(engine.program().unwrap()).await;
    let database = Database::on(&server).await;
    let store = open_store_at(database.url().into()).await;
    let kept = store.take_place(true).await.unwrap().keep();
    let restarts = async {
        server.kill();
        server.start_again().await;
        // As if it had lost a packet: it answers too late.
        server.pause();
        tokio::time::sleep(PLACE_PING_INTERVAL + DATABASE_PING_MAX + Duration::from_secs(1)).await;
        server.resume();
        // Another one finds it taken, once it is taken again.
        let other = open_store_at(database.url().into()).await;
        while other.take_place(true).await.is_ok() {
            tokio::task::yield_now().await;
        }
        other.close().await;
    };
    tokio::select! {
        refused = kept => panic!("{refused:?}"),
        () = restarts => {}
    }
    store.close().await;
}

fn server(store: &Store) -> &Server {
    match &*store.engine {
        store::Engine::Server(server) => server,
        store::Engine::Sqlite(_) => unreachable!("it is a server's"),
    }
}

/// Packets are swallowed right after connecting.
async fn session_that_cannot_be_set_up_is_given_up(engine: Engine) {
    let database = Database::of(engine).await;
    let proxy = Proxy::to(database.address().unwrap()).await;
    let store = open_store_at(database.url_through(proxy.address())).await;
    let mut connection = server(&store).address.connect().await.unwrap();
    proxy.swallow().await;
    let set_up = connection.end_when_lost(PLACE_SILENCE_MAX);
    let given_up = timeout(ATTEMPT_MAX + Duration::from_secs(2), set_up).await;
    given_up.expect("it ends").unwrap_err();
}

/// A migration may take longer than the server bears a session that rests.
async fn right_to_migrate_is_kept_while_it_is_used_and_is_lost_with_its_connection(engine: Engine) {
    // A quarter of it may be late by as much as a busy machine takes.
    const SILENCE_MAX: Duration = Duration::from_secs(10);
    let database = Database::of(engine).await;
    let proxy = Proxy::to(database.address().unwrap()).await;
    let store = open_store_at(database.url_through(proxy.address())).await;
    let other = open_store_at(database.url().into()).await;
    let lock = server(&store).lock_schema(SILENCE_MAX).await.unwrap();
    let migrate = async {
        let taken = server(&other).lock_schema(SILENCE_MAX);
        let taken = timeout(SILENCE_MAX + SILENCE_MAX / 2, taken).await;
        assert!(taken.is_err(), "two migrate at once");
        Ok(())
    };
    lock.during(migrate).await.unwrap();
    let taken = timeout(LONG, server(&other).lock_schema(SILENCE_MAX)).await;
    drop(taken.expect("it is free").unwrap());

    let lock = server(&store).lock_schema(SILENCE_MAX).await.unwrap();
    proxy.cut().await;
    let lost = lock.during(std::future::pending::<Result<()>>());
    let lost = timeout(3 * SILENCE_MAX, lost).await;
    lost.expect("it ends").unwrap_err();
    other.close().await;
}

on_each_server!(
    instance_that_is_alone_refuses_others_and_is_refused,
    place_outlives_the_database,
    session_that_cannot_be_set_up_is_given_up,
    right_to_migrate_is_kept_while_it_is_used_and_is_lost_with_its_connection,
);
