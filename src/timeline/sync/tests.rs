//! Syncs of a user's timeline and of large groups, page by page, against what is stored.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection::vec, prelude::*, sample::Index};
use prost::Message as _;

use super::*;
use crate::{
    limits::{CACHE_TTL, FRAME_BODY_BYTES_MAX},
    pb::{MessageType, ReceiverType, SenderType},
    testing::{Timelines, rows::Rows},
    user::Directory,
};

const USER: UserId = UserId(1);
const EPOCH: i64 = 5;

/// A server's part that syncs.
struct Site {
    rows: Rows,
    pages: Pages,
    acks: Acks,
    _world: Timelines,
}

impl Site {
    async fn new() -> Self {
        let world = Timelines::new().await;
        let database = world.foreign_connection();
        database
            .execute("UPDATE cluster SET epoch = ?1", [EPOCH])
            .unwrap();
        Self {
            rows: Rows::new(world.foreign_connection()),
            pages: Pages::new(
                world.store.clone(),
                Arc::new(Directory::new(
                    world.store.clone(),
                    Arc::clone(&world.router),
                    CACHE_TTL,
                )),
                world.tasks.clone(),
                Arc::clone(&world.metrics),
            ),
            acks: Acks::default(),
            _world: world,
        }
    }

    async fn sync(&self, input: &pb::SyncInput) -> Synced {
        let synced = sync(&self.pages, &self.acks, USER, input);
        synced.await.unwrap()
    }

    fn fill(&self, owner: Owner, sizes: &[usize]) {
        for size in sizes {
            self.rows.append(owner, &text(vec![b'x'; *size]));
        }
    }
}

fn text(content: Vec<u8>) -> pb::Message {
    pb::Message {
        sender: Some(pb::Sender {
            sender_type: SenderType::StBusiness as i32,
            ..Default::default()
        }),
        receiver_type: ReceiverType::RtUser as i32,
        receiver_id: USER.get(),
        message_type: MessageType::MtText as i32,
        message_content: content.into(),
        ..Default::default()
    }
}

fn seqs(messages: &[pb::Message]) -> Vec<i64> {
    messages.iter().map(|message| message.seq).collect()
}

#[derive(Clone, Debug)]
struct Group {
    is_member: bool,
    is_asked_for: bool,
    before: Vec<usize>,
    after: Vec<usize>,
    cursor: Index,
}

fn sizes(count: usize) -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![6 => 1..200_usize, 1 => 10_000..60_001_usize];
    vec(size, 0..count)
}

fn group() -> impl Strategy<Value = Group> {
    let is_asked_for = prop_oneof![5 => Just(true), 1 => Just(false)];
    let is_member = prop_oneof![5 => Just(true), 1 => Just(false)];
    (is_member, is_asked_for, sizes(4), sizes(30), any::<Index>()).prop_map(
        |(is_member, is_asked_for, before, after, cursor)| Group {
            is_member,
            is_asked_for,
            before,
            after,
            cursor,
        },
    )
}

/// What a device holds of one timeline, as far as it is true.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// It is given nothing at or before this.
    begin: i64,
    head: i64,
    cursor: i64,
    is_member: bool,
}

impl Held {
    /// After which entry the next page must begin, and whether what is held means nothing.
    fn expected(&self, is_other_epoch: bool) -> (i64, bool) {
        let reset = is_other_epoch || self.cursor > self.head;
        let after = if reset {
            self.begin
        } else {
            self.cursor.max(self.begin)
        };
        (after, reset)
    }
}

/// Takes over what a page gives of a timeline.
fn take(held: &mut Held, after: i64, messages: &[pb::Message]) {
    let expected: Vec<i64> = (after + 1..).take(messages.len()).collect();
    assert_eq!(seqs(messages), expected, "not what follows {after}");
    held.cursor = after + messages.len() as i64;
    assert!(held.cursor <= held.head);
}

/// A page as a whole.
fn check(output: &pb::SyncOutput) {
    let frame = pb::Output {
        r#type: pb::PackageType::PtSync as i32,
        request_id: i64::MAX,
        data: output.encode_to_vec().into(),
        ..Default::default()
    };
    assert!(frame.encoded_len() <= FRAME_BODY_BYTES_MAX);
    let groups = output.groups.iter();
    let count: usize = groups.clone().map(|group| group.messages.len()).sum();
    assert!(output.messages.len() + count <= PAGE_MESSAGES_MAX);
    assert!(groups.clone().is_sorted_by(|a, b| a.group_id < b.group_id));
    assert_eq!(output.epoch, EPOCH);
}

/// Syncs until there is no more, as a device does. Returns how many pages it took.
async fn walk(site: &Site, user: &mut Held, groups: &mut BTreeMap<i64, Held>, epoch: i64) -> usize {
    let mut epoch = epoch;
    for page in 1.. {
        let asked: BTreeMap<i64, i64> =
            groups.iter().map(|(id, held)| (*id, held.cursor)).collect();
        let input = pb::SyncInput {
            seq: user.cursor,
            group_seqs: asked.into_iter().collect(),
            from_start: false,
            epoch,
        };
        let Synced { output, ends } = site.sync(&input).await;
        check(&output);
        let is_other_epoch = epoch != 0 && epoch != EPOCH;

        let (after, reset) = user.expected(is_other_epoch);
        assert_eq!(output.reset, reset);
        take(user, after, &output.messages);
        assert_eq!(
            (ends.user.after, ends.user.end),
            (Seq(after), Seq(user.cursor))
        );
        assert_eq!(ends.user.is_unfinished, user.cursor < user.head);

        let mut unfinished = user.cursor < user.head;
        for (id, held) in groups.iter_mut().filter(|(_, held)| held.is_member) {
            let part = output.groups.iter().find(|part| part.group_id == *id);
            let end = ends
                .groups
                .iter()
                .find(|end| end.group.get() == *id)
                .unwrap();
            let (after, reset) = held.expected(is_other_epoch);
            let is_due = reset || after < held.head;
            if let Some(part) = part {
                assert!(is_due, "group {id} has nothing newer");
                assert_eq!(part.reset, reset);
                assert!(reset || !part.messages.is_empty());
                take(held, after, &part.messages);
                assert_eq!(part.has_more, held.cursor < held.head);
                assert_eq!(end.end, Some(Seq(held.cursor)));
                assert_eq!(end.is_unfinished, part.has_more);
            } else if is_due {
                assert_eq!((end.end, end.is_unfinished), (None, true));
                // Who must drop everything does.
                held.cursor = if is_other_epoch { 0 } else { held.cursor };
            } else {
                assert_eq!((end.end, end.is_unfinished), (Some(Seq(after)), false));
            }
            unfinished |= end.is_unfinished;
        }
        assert_eq!(
            output
                .groups
                .iter()
                .filter(|part| !groups[&part.group_id].is_member)
                .count(),
            0
        );
        assert_eq!(output.has_more, unfinished);
        assert_eq!(ends.is_unfinished(), unfinished);
        if !unfinished {
            return page;
        }
        assert!(
            !output.messages.is_empty() || !output.groups.is_empty(),
            "a page without anything"
        );
        epoch = EPOCH;
    }
    unreachable!("a sync ends")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn device_gets_everything_once_and_in_order(
        own in sizes(70),
        own_cursor in 1..75_i64,
        groups in vec(group(), 0..8),
        epoch in prop_oneof![Just(0), Just(EPOCH), Just(EPOCH + 1)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let site = Site::new().await;
            site.rows.transaction(|_| site.fill(Owner::User(USER), &own));
            let mut held = BTreeMap::new();
            for (id, group) in (1..).zip(&groups) {
                let owner = Owner::Group(GroupId(id));
                let begin = site.rows.transaction(|rows| {
                    site.fill(owner, &group.before);
                    if group.is_member { rows.join(GroupId(id), USER) } else { Seq::ZERO }
                });
                site.rows.transaction(|_| site.fill(owner, &group.after));
                let head = site.rows.head(owner).get();
                if group.is_asked_for {
                    let cursor = group.cursor.index(head as usize + 3) as i64;
                    let (begin, is_member) = (begin.get(), group.is_member);
                    held.insert(id, Held { begin, head, cursor, is_member });
                }
            }
            let head = own.len() as i64;
            let mut user = Held { begin: 0, head, cursor: own_cursor, is_member: true };
            let pages = walk(&site, &mut user, &mut held, epoch).await;
            let all = held.values().filter(|held| held.is_member);
            let has_all = |held: &Held| held.cursor.max(held.begin) == held.head;
            assert!(all.into_iter().all(has_all));
            let total = own.len() + groups.iter().map(|g| g.before.len() + g.after.len()).sum::<usize>();
            assert!(pages <= total + 2, "{pages} pages for {total} messages");
        });
    }
}

#[tokio::test]
async fn change_of_memberships_in_a_page_is_reported() {
    let site = Site::new().await;
    let own = Owner::User(USER);
    let command = pb::Command {
        code: pb::PushCode::PcAddGroupMembers as i32,
        data: Vec::new().into(),
    };
    let mut mark = text(command.encode_to_vec());
    mark.sender = Some(pb::Sender {
        sender_type: SenderType::StSystem as i32,
        ..Default::default()
    });
    mark.message_type = MessageType::MtCommand as i32;
    mark.receiver_id = 0;
    site.fill(own, &[1]);
    site.rows.append(own, &mark);
    site.rows.append(own, &mark);
    site.fill(own, &[1]);
    let after = |seq| pb::SyncInput {
        seq,
        ..Default::default()
    };
    let whole = site.sync(&after(1)).await;
    assert_eq!(whole.ends.user.mark, Some(Seq(3)));
    let receivers = whole
        .output
        .messages
        .iter()
        .map(|message| message.receiver_id);
    assert!(receivers.eq([USER.get(); 3]), "the reader is the receiver");
    assert_eq!(site.sync(&after(3)).await.ends.user.mark, None);
}

/// 5,000 groups are more than one frame has headers for.
#[tokio::test]
async fn device_of_another_epoch_is_told_to_drop_all_groups_as_far_as_there_is_room() {
    let site = Site::new().await;
    let count = SYNC_GROUPS_MAX as i64;
    site.rows.transaction(|rows| {
        for group in (1..=count).map(GroupId) {
            rows.join(group, USER);
        }
        site.fill(Owner::Group(GroupId(count)), &[1]);
    });
    let mut groups: BTreeMap<i64, Held> = (1..=count)
        .map(|id| {
            let held = Held {
                begin: 0,
                head: i64::from(id == count),
                cursor: 0,
                is_member: true,
            };
            (id, held)
        })
        .collect();
    let mut user = Held {
        begin: 0,
        head: 0,
        cursor: 0,
        is_member: true,
    };
    let pages = walk(&site, &mut user, &mut groups, EPOCH + 1).await;
    assert_eq!(pages, 2);
    assert_eq!(groups[&count].cursor, 1);
}
