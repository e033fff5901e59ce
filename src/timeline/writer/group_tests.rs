//! Sends to groups and changes of groups, at the writer: who is given what is settled in the
//! transaction that takes the positions, and a change is one transaction with what announces it.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::join;
use tokio::time::timeout;

use super::*;
use crate::{
    error::Code,
    id::{GroupId, Owner, Seq, UserId},
    limits::LOCK_TIMEOUT,
    pb,
    store::{
        self, Tx,
        append::To,
        group::{Details, GroupKind, Member, Roster},
        timeline::Row,
    },
    testing::{self, Timelines, done, send},
    timeline::{Applied, Stop},
};

/// Adds and removes members, and says so to those who are members then.
struct Edit {
    group: GroupId,
    add: Vec<i64>,
    remove: Vec<i64>,
    refuse: bool,
    applied: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<&'static str>>>,
}

impl Edit {
    fn new(group: GroupId, add: &[i64], remove: &[i64]) -> Self {
        Self {
            group,
            add: add.to_vec(),
            remove: remove.to_vec(),
            refuse: false,
            applied: Arc::default(),
            seen: Arc::default(),
        }
    }
}

impl Change for Edit {
    type Output = usize;

    fn by(&self) -> UserId {
        UserId(1)
    }

    fn rows(&self) -> usize {
        10
    }

    fn bytes(&self) -> usize {
        0
    }

    async fn apply(&self, tx: &Tx) -> Result<Applied<usize>, Stop> {
        self.applied.fetch_add(1, Ordering::SeqCst);
        let conn = tx.conn();
        let row = store::group::lock(conn, self.group).await?;
        let kind = row.expect("the test made it").kind();
        let add = self.add.iter().map(|user| Member {
            group_id: self.group.get(),
            user_id: *user,
            member_type: 2,
            remarks: String::new(),
            extra: String::new(),
            join_seq: (kind == GroupKind::Large).then_some(0),
            created_at: 0,
            updated_at: 0,
        });
        store::group::insert_members(conn, add.collect()).await?;
        for user in &self.remove {
            store::group::delete_member(conn, self.group, UserId(*user)).await?;
        }
        let more = self.add.len() as i64 - self.remove.len() as i64;
        store::group::touch(conn, self.group, more, 0).await?;
        let members = store::group::member_ids(conn, self.group).await?;
        if self.refuse {
            return Err(Error::business(Code::GroupFull, "full").into());
        }
        let members: Vec<i64> = members.iter().map(|user| user.get()).collect();
        let announce = |text: &str| {
            let mut announcement = send(1, &members, "", text.as_bytes());
            announcement.answer_owner = None;
            announcement
        };
        Ok(Applied {
            output: members.len(),
            announcements: vec![announce("one"), announce("two")],
        })
    }

    fn committed(&self, _: &usize) {
        self.seen.lock().unwrap().push("committed");
    }
}

async fn group(world: &Timelines, kind: GroupKind, members: &[i64]) -> GroupId {
    let tx = world.store.begin().await.unwrap();
    let row = store::group::insert(tx.conn(), kind, Details::default(), 0).await;
    tx.commit().await.unwrap();
    let id = GroupId(row.unwrap().id);
    let edit = Edit::new(id, members, &[]);
    assert_eq!(world.writer.change(edit).await.unwrap(), members.len());
    id
}

/// The roster as somebody has seen it who looked at a version.
fn roster(group: GroupId, version: i64, members: &[i64]) -> To {
    To::Members(Arc::new(Roster {
        group,
        version,
        members: members.iter().copied().map(UserId).collect(),
    }))
}

fn to_group(sender: i64, to: To, client_message_id: &str) -> Append {
    let mut append = send(sender, &[sender], client_message_id, b"hello");
    append.message.receiver_type = pb::ReceiverType::RtSmallGroup as i16;
    if let To::Group(group) = to {
        append.answer_owner = Some(Owner::Group(group));
    }
    append.to = to;
    append
}

fn texts(rows: Vec<Row>) -> Vec<(i64, String)> {
    let text = |row: Row| {
        (
            row.seq.get(),
            String::from_utf8(row.message.content).unwrap(),
        )
    };
    rows.into_iter().map(text).collect()
}

fn code<T>(result: &Result<T>) -> Option<Code> {
    result.as_ref().err().and_then(Error::code)
}

#[tokio::test]
async fn change_and_what_announces_it_take_turns_with_its_author_s_sends() {
    let world = Timelines::new().await;
    let group = group(&world, GroupKind::Small, &[1, 2]).await;
    let (before, after) = (
        to_group(1, roster(group, 2, &[1, 2]), "a"),
        to_group(1, roster(group, 2, &[1, 2]), "b"),
    );
    let now = Instant::now();
    let before = world.writer.append(before, now).unwrap();
    let change = world.writer.change(Edit::new(group, &[3], &[2]));
    // Both are in line before either is waited for.
    let (changed, after) = join!(change, async {
        done(world.writer.append(after, now).unwrap()).await
    });
    assert_eq!(changed.unwrap(), 2);
    let positions = (done(before).await.unwrap().seq, after.unwrap().seq);
    assert_eq!(positions, (Seq(3), Seq(6)));
    let text = |seq, text: &str| (seq, text.to_owned());
    let made = [text(1, "one"), text(2, "two"), text(3, "hello")];
    assert_eq!(texts(world.timeline(2).await), made);
    let joined = [text(1, "one"), text(2, "two"), text(3, "hello")];
    assert_eq!(texts(world.timeline(3).await), joined);
}

#[tokio::test]
async fn refused_change_leaves_nothing_behind() {
    let world = Timelines::new().await;
    let group = group(&world, GroupKind::Small, &[1]).await;
    let mut edit = Edit::new(group, &[2, 3], &[1]);
    edit.refuse = true;
    let seen = Arc::clone(&edit.seen);
    let refused = world.writer.change(edit).await;
    assert_eq!(code(&refused), Some(Code::GroupFull));
    assert!(seen.lock().unwrap().is_empty());
    let members = store::group::member_ids(world.store.reader(), group).await;
    assert_eq!(members.unwrap(), [UserId(1)]);
    assert_eq!(world.timeline(1).await.len(), 2);
    assert_eq!(world.timeline(2).await.len(), 0);
}

#[tokio::test]
async fn busy_database_delays_a_change_and_makes_it_once() {
    let world = Timelines::new().await;
    let group = group(&world, GroupKind::Small, &[1]).await;
    let foreign = world.foreign_connection();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let edit = Edit::new(group, &[2], &[]);
    let seen = Arc::clone(&edit.seen);
    let mut change = Box::pin(world.writer.change(edit));
    // Longer than one attempt waits for the lock.
    let too_soon = timeout(LOCK_TIMEOUT + Duration::from_millis(300), &mut change).await;
    assert!(too_soon.is_err(), "{too_soon:?}");
    foreign.execute_batch("COMMIT").unwrap();
    assert_eq!(change.await.unwrap(), 2);
    assert_eq!(*seen.lock().unwrap(), ["committed"]);
    assert_eq!(world.timeline(2).await.len(), 2);
}

#[tokio::test]
async fn change_gets_fresh_message_ids_after_a_restore() {
    let world = Timelines::new().await;
    let group = group(&world, GroupKind::Small, &[1]).await;
    let restore = "UPDATE id_block SET next = 1 WHERE name = 'message'";
    world.foreign_connection().execute_batch(restore).unwrap();
    let edit = Edit::new(group, &[2], &[]);
    let applied = Arc::clone(&edit.applied);
    assert_eq!(world.another_writer().change(edit).await.unwrap(), 2);
    assert!(applied.load(Ordering::SeqCst) > 1, "it was run again");
    assert_eq!(world.timeline(1).await.len(), 4);
    assert_eq!(world.timeline(2).await.len(), 2);
}

/// However old the roster is, and however long the send has waited.
#[tokio::test]
async fn message_goes_to_those_who_are_members_at_its_position() {
    let world = Timelines::new().await;
    let group = group(&world, GroupKind::Small, &[1, 2]).await;
    world
        .writer
        .change(Edit::new(group, &[3], &[2]))
        .await
        .unwrap();
    let old = [
        roster(group, 1, &[]),
        roster(group, 2, &[1, 2]),
        roster(group, 3, &[1, 3]),
        roster(group, 99, &[1, 2, 3, 4]),
    ];
    for (n, to) in (0..).zip(old) {
        let sent = testing::append(&world.writer, to_group(1, to, "")).await;
        assert_eq!(sent.unwrap().seq, Seq(5 + n));
    }
    let counts = [
        world.timeline(1).await.len(),
        world.timeline(2).await.len(),
        world.timeline(3).await.len(),
        world.timeline(4).await.len(),
    ];
    assert_eq!(counts, [8, 2, 6, 0]);
    // One row, whatever the number of members.
    let messages: i64 = world
        .foreign_connection()
        .query_row("SELECT count(*) FROM message", [], |row| row.get(0))
        .unwrap();
    assert_eq!(messages, 8);
}

#[tokio::test]
async fn sender_who_was_removed_meanwhile_is_refused_but_for_a_retry() {
    let world = Timelines::new().await;
    for kind in [GroupKind::Small, GroupKind::Large] {
        let group = group(&world, kind, &[1, 2]).await;
        let to = || match kind {
            GroupKind::Small => roster(group, 2, &[1, 2]),
            GroupKind::Large => To::Group(group),
        };
        let id = format!("{kind:?}");
        let first = testing::append(&world.writer, to_group(2, to(), &id)).await;
        let first = first.unwrap();
        world
            .writer
            .change(Edit::new(group, &[], &[2]))
            .await
            .unwrap();

        let again = testing::append(&world.writer, to_group(2, to(), &id)).await;
        assert_eq!(
            again.unwrap(),
            Appended {
                repeated: true,
                ..first
            }
        );
        let refused = testing::append(&world.writer, to_group(2, to(), "new")).await;
        assert_eq!(code(&refused), Some(Code::NotInGroup));
        let mut system = to_group(2, to(), "new");
        system.message.sender_type = pb::SenderType::StSystem as i16;
        assert_eq!(code(&testing::append(&world.writer, system).await), None);
    }
}

#[tokio::test]
async fn group_that_is_gone_or_of_another_kind_is_refused() {
    let world = Timelines::new().await;
    let small = group(&world, GroupKind::Small, &[1]).await;
    let large = group(&world, GroupKind::Large, &[1]).await;
    let gone = GroupId(999);
    for to in [
        roster(large, 2, &[1]),
        roster(gone, 2, &[1]),
        To::Group(small),
        To::Group(gone),
    ] {
        let refused = testing::append(&world.writer, to_group(1, to, "")).await;
        assert_eq!(code(&refused), Some(Code::NoSuchGroup));
    }
}

/// Also where the group's id is a user's.
#[tokio::test]
async fn large_group_has_a_timeline_of_its_own() {
    let world = Timelines::new().await;
    let group = group(&world, GroupKind::Large, &[1, 2]).await;
    assert_eq!(group, GroupId(1), "as the user's");
    let before = world.timeline(1).await.len();
    for n in 1..=3 {
        let sent = testing::append(&world.writer, to_group(1, To::Group(group), "")).await;
        assert_eq!(sent.unwrap().seq, Seq(n));
        testing::append(&world.writer, send(1, &[1, 2], "", b"x"))
            .await
            .unwrap();
    }
    assert_eq!(world.timeline(1).await.len(), before + 3);
    let heads = [Owner::Group(group), Owner::User(UserId(1))];
    let heads = store::timeline::heads(world.store.reader(), &heads)
        .await
        .unwrap();
    assert_eq!(heads[&Owner::Group(group)], Seq(3));
    assert_eq!(heads[&Owner::User(UserId(1))], Seq(before as i64 + 3));
}

/// Nobody is surprised by a change that he was told to look for.
#[tokio::test]
async fn change_nobody_waits_for_any_more_is_not_begun() {
    let world = Timelines::new().await;
    let group = group(&world, GroupKind::Small, &[1]).await;
    let foreign = world.foreign_connection();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    // One is being tried, the other waits behind it.
    let mut first = Box::pin(world.writer.change(Edit::new(group, &[2], &[])));
    let mut second = Box::pin(world.writer.change(Edit::new(group, &[3], &[])));
    let both = async { join!(&mut first, &mut second) };
    assert!(timeout(Duration::from_millis(300), both).await.is_err());
    drop(second);
    foreign.execute_batch("COMMIT").unwrap();
    assert_eq!(first.await.unwrap(), 2);
    let third = world.writer.change(Edit::new(group, &[4], &[])).await;
    assert_eq!(third.unwrap(), 3, "without the second");
}
