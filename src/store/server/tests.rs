//! The append transaction on database servers against the one on SQLite, which takes one send after
//! the other: the same plans lead to the same places.

use std::{cell::Cell, sync::Arc};

use test_servers::{Database, Engine};
use tokio::task::JoinSet;

use super::super::{
    Store,
    append::{Lock, Placed, Send, To},
    failure_kind,
    group::{self, Details, GroupKind, Member, Roster},
    message::{self, Row},
    outbox::{self, OfMessage},
    timeline, undelivered,
};
use crate::{
    config,
    id::{GroupId, MessageId, Owner, Seq, UserId},
    testing::on_each_server,
};

const SMALL: i64 = 1;
const LARGE: i64 = 2;
/// Users who are in both groups; the others are in none.
const MEMBERS: [i64; 3] = [1, 2, 3];
const USERS: i64 = 6;

/// A random number generator whose runs can be repeated.
struct Dice(u64);

impl Dice {
    /// See <https://prng.di.unimi.it/splitmix64.c>.
    fn roll(&mut self, sides: u64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides) as i64
    }
}

async fn open(url: String) -> Store {
    let database = config::Database {
        url,
        max_connections: 8,
        sqlite_synchronous: config::SqliteSynchronous::Normal,
    };
    let store = Store::open(&database).await.unwrap();
    store.migrate().await.unwrap();
    store
}

/// A small group and a large one.
async fn with_groups(url: String) -> Store {
    let store = open(url).await;
    let tx = store.begin().await.unwrap();
    for (id, kind) in [(SMALL, GroupKind::Small), (LARGE, GroupKind::Large)] {
        let made = group::insert(tx.conn(), kind, Details::default(), 0)
            .await
            .unwrap();
        assert_eq!(made.id, id);
        let member = |user| Member {
            group_id: id,
            user_id: user,
            member_type: 1,
            remarks: String::new(),
            extra: String::new(),
            join_seq: (kind == GroupKind::Large).then_some(0),
            created_at: 0,
            updated_at: 0,
        };
        let members = MEMBERS.map(member).to_vec();
        group::insert_members(tx.conn(), members).await.unwrap();
    }
    tx.commit().await.unwrap();
    store
}

fn user(id: i64) -> Owner {
    Owner::User(UserId(id))
}

fn row(id: i64, sender: i64, client_id: Option<i64>, says: i64) -> Row {
    Row {
        id,
        sender_type: 2,
        sender_id: sender,
        sender_device_id: 10 * sender,
        receiver_type: 1,
        receiver_id: 1,
        to_user_ids: vec![0, 255],
        r#type: 1,
        content: vec![says as u8, 0, b'\'', b'\\', 0xff],
        send_time: 1_000 + id,
        status: 0,
        client_message_id: client_id.map(|id| id.to_string().into_bytes()),
        digest: vec![says as u8; 32],
    }
}

/// What is written beside a message: nothing, its event, a check, or both.
fn events(dice: &mut Dice, owner: i64) -> Option<OfMessage> {
    let (is_told, is_checked) = (dice.roll(2) == 0, dice.roll(2) == 0);
    (is_told || is_checked).then(|| OfMessage {
        owner,
        created_at: dice.roll(1_000),
        is_told,
        check_at: is_checked.then(|| dice.roll(1_000)),
    })
}

/// A send of any kind: new or a repeat, to users or groups, allowed or not, all or part.
fn any(dice: &mut Dice, id: i64) -> Send {
    let sender = 1 + dice.roll(USERS as u64);
    let client_id = (dice.roll(3) > 0).then(|| dice.roll(12));
    // What one client message id says differs now and then.
    let says = client_id.map_or(0, |id| id + i64::from(dice.roll(10) == 0));
    let (to, answer_owner) = match dice.roll(6) {
        0 | 1 => {
            let other = 1 + dice.roll(USERS as u64);
            let mut owners = vec![user(sender), user(other)];
            owners.dedup();
            (To::Owners(owners), Some(user(sender)))
        }
        2 => {
            let is_current = dice.roll(4) > 0;
            let roster = Roster {
                group: GroupId(if dice.roll(8) == 0 { 99 } else { SMALL }),
                version: if is_current { 1 } else { 0 },
                members: if is_current {
                    MEMBERS.map(UserId).to_vec()
                } else {
                    vec![UserId(6)]
                },
            };
            (To::Members(Arc::new(roster)), Some(user(sender)))
        }
        3 | 4 => {
            let group = GroupId(if dice.roll(8) == 0 { SMALL } else { LARGE });
            (To::Group(group), Some(Owner::Group(group)))
        }
        _ => {
            let first = dice.roll(USERS as u64 - 1);
            let owners = [user(1 + first), user(2 + first)];
            let message = client_id.is_none().then(|| MessageId(id - dice.roll(3)));
            let owners = owners.into();
            (To::Rest { owners, message }, None)
        }
    };
    let id = to.message().unwrap_or(MessageId(id)).get();
    let member = (dice.roll(5) > 0).then_some(UserId(sender));
    Send {
        row: row(id, sender, client_id, says),
        to,
        member,
        answer_owner,
        events: events(dice, sender),
    }
}

async fn timelines(store: &Store) -> Vec<Vec<(Seq, Row)>> {
    let owners = (1..=USERS).map(user).chain([Owner::Group(GroupId(LARGE))]);
    let mut all = Vec::new();
    for owner in owners {
        let (rows, more) = timeline::page(store, owner, Seq::ZERO, 10_000, usize::MAX)
            .await
            .unwrap();
        assert!(!more);
        all.push(rows.into_iter().map(|row| (row.seq, row.message)).collect());
    }
    all
}

/// What is written beside messages, but for the ids, which have gaps.
async fn beside(store: &Store) -> (Vec<(i64, i64, i64)>, Vec<undelivered::Check>) {
    let page = outbox::page(store.reader(), None, 0, 100_000);
    let events = page.await.unwrap().into_iter();
    let events = events.map(|row| (row.owner_id, row.message_id, row.created_at));
    let checks = undelivered::due(store.reader(), i64::MAX, 100_000);
    (events.collect(), checks.await.unwrap())
}

/// I1 and I3, in all combinations.
async fn server_places_what_sqlite_places(engine: Engine) {
    let database = Database::of(engine).await;
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}/im.db", folder.path().display());
    let (server, sqlite) = (
        with_groups(database.url().into()).await,
        with_groups(file).await,
    );
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut id = 1_000 * (1 + seed as i64);
        for _ in 0..8 {
            let sends: Vec<Send> = (0..1 + dice.roll(12))
                .map(|_| {
                    id += 10;
                    any(&mut dice, id)
                })
                .collect();
            let on_sqlite = sqlite.append(sends.clone()).await;
            let on_server = server.append(sends.clone()).await;
            match (on_sqlite, on_server) {
                (Ok(one), Ok(other)) => {
                    assert_eq!(other.placed, one.placed, "seed {seed}: {sends:#?}");
                }
                (Err(one), Err(other)) => assert_eq!(other.kind, one.kind, "seed {seed}"),
                (one, other) => panic!("seed {seed}: {one:?}, but {other:?}: {sends:#?}"),
            }
        }
    }
    assert_eq!(timelines(&server).await, timelines(&sqlite).await);
    let (on_server, on_sqlite) = (beside(&server).await, beside(&sqlite).await);
    assert!(!on_sqlite.0.is_empty() && !on_sqlite.1.is_empty());
    assert_eq!(on_server, on_sqlite);
    server.close().await;
    sqlite.close().await;
}

/// I1 and I3 between instances: the same sends on all of them at the same time.
async fn instances_append_each_send_once_and_without_gaps(engine: Engine) {
    const INSTANCES: i64 = 3;
    let database = Database::of(engine).await;
    with_groups(database.url().into()).await.close().await;
    let mut instances = JoinSet::new();
    for instance in 0..INSTANCES {
        let url = database.url().to_owned();
        instances.spawn(async move {
            let store = open(url).await;
            let mut dice = Dice(7);
            let mut stored = Vec::new();
            for batch in 0..40 {
                let sends: Vec<Send> = (0..10)
                    .map(|n| {
                        let id = 1_000_000 * (1 + instance) + 10 * batch + n;
                        let client_id = 10 * batch + n;
                        let sender = 1 + dice.roll(USERS as u64);
                        let other = 1 + dice.roll(USERS as u64);
                        let mut owners = vec![user(sender), user(other)];
                        owners.dedup();
                        Send {
                            row: row(id, sender, Some(client_id), client_id),
                            to: To::Owners(owners),
                            member: None,
                            answer_owner: Some(user(sender)),
                            events: None,
                        }
                    })
                    .collect();
                stored.extend(until_stored(&store, sends).await);
            }
            store.close().await;
            stored
        });
    }
    let answers: Vec<Vec<(MessageId, Seq)>> = instances.join_all().await;
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "one result for each send"
    );
    let store = open(database.url().into()).await;
    let mut entries = 0;
    for timeline in timelines(&store).await {
        let seqs: Vec<i64> = timeline.iter().map(|(seq, _)| seq.get()).collect();
        assert_eq!(seqs, (1..=seqs.len() as i64).collect::<Vec<_>>());
        entries += seqs.len();
    }
    assert!(entries >= answers[0].len());
    store.close().await;
}

/// Appends a batch as the writer does: again when it may be.
async fn until_stored(store: &Store, sends: Vec<Send>) -> Vec<(MessageId, Seq)> {
    use super::super::FailureKind::Duplicate;

    loop {
        match store.append(sends.clone()).await {
            Ok(committed) => {
                let seq = |placed: Placed, send: &Send| match placed {
                    Placed::New { id, entries, .. } => {
                        let of_sender =
                            |(owner, _): &&(Owner, Seq)| Some(*owner) == send.answer_owner;
                        (id, entries.iter().find(of_sender).unwrap().1)
                    }
                    Placed::Repeat { id, seq, .. } => (id, seq),
                    other => panic!("{other:?}"),
                };
                let placed = committed.placed.into_iter().zip(&sends);
                return placed.map(|(placed, send)| seq(placed, send)).collect();
            }
            Err(failed) if failed.kind == Duplicate || failed.kind.may_pass() => {}
            Err(failed) => panic!("{failed:?}"),
        }
    }
}

/// A connection was lost in the commit, and the server is still at it.
async fn unknown_outcome_is_told_when_the_transaction_has_ended(engine: Engine) {
    let database = Database::of(engine).await;
    let store = open(database.url().into()).await;
    let lost = database.connect().await;
    for (id, end) in [(1, "COMMIT"), (2, "ROLLBACK")] {
        lost.execute("BEGIN").await;
        // Its head may be new, or there already.
        let raise = match engine {
            Engine::Postgres => "ON CONFLICT (owner_type, owner_id) DO UPDATE SET seq = 2",
            _ => "ON DUPLICATE KEY UPDATE seq = 2",
        };
        let head = format!("INSERT INTO timeline_head VALUES (1, 7, 1) {raise}");
        lost.execute(&head).await;
        let message = format!("INSERT INTO message VALUES ({id},2,7,70,1,7,'',1,'x',0,0,NULL,'d')");
        lost.execute(&message).await;

        let has_ended = Cell::new(false);
        let settle = async {
            let stored = until_settled(&store, MessageId(id)).await;
            assert!(has_ended.get(), "it waits");
            stored
        };
        let end_it = async {
            // Time enough to answer too soon.
            for _ in 0..20 {
                store.held([Lock::Head(user(7))].into()).await.unwrap();
            }
            has_ended.set(true);
            lost.execute(end).await;
        };
        let (stored, ()) = tokio::join!(settle, end_it);
        assert_eq!(stored.len(), usize::from(end == "COMMIT"), "{end}");
    }
    assert_eq!(
        database
            .connect()
            .await
            .number("SELECT seq FROM timeline_head")
            .await,
        1
    );
    store.close().await;
}

/// What became of a message of user 7. An answer that the transaction has not ended yet, on a machine
/// too busy to end it meanwhile, is none.
async fn until_settled(store: &Store, id: MessageId) -> Vec<message::Known> {
    loop {
        match store.settle(&[id], user(7)).await {
            Err(error) if failure_kind(&error).may_pass() => {}
            settled => return settled.unwrap(),
        }
    }
}

on_each_server!(
    server_places_what_sqlite_places,
    instances_append_each_send_once_and_without_gaps,
    unknown_outcome_is_told_when_the_transaction_has_ended,
);
