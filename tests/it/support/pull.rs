//! A device that pulls what it lacks of its user's timeline and of large groups, page by page, and
//! checks every page against the contract.

use std::collections::{BTreeMap, BTreeSet};

use im::pb::{Message, MessageAck, PackageType, ReceiverType, SyncInput, SyncOutput};

use super::Connection;

/// Most messages in one page, of all timelines together.
const PAGE_MESSAGES_MAX: usize = 50;

/// What came until nothing more was left.
#[derive(Debug, Default)]
pub struct Pulled {
    /// Of the user's timeline.
    pub messages: Vec<Message>,
    /// Of each large group that had something.
    pub groups: BTreeMap<i64, Vec<Message>>,
    /// The groups whose cursors the server could not honour.
    pub resets: BTreeSet<i64>,
    /// How many pages it took.
    pub pages: usize,
}

impl Connection {
    /// One page after these cursors.
    pub async fn sync_groups(&mut self, seq: i64, group_seqs: &[(i64, i64)]) -> SyncOutput {
        let input = SyncInput {
            seq,
            group_seqs: group_seqs.iter().copied().collect(),
            ..Default::default()
        };
        let page = self.sync(input.clone()).await;
        check_page(&input, &page);
        page
    }

    /// Everything after these cursors.
    pub async fn pull(&mut self, mut seq: i64, group_seqs: &[(i64, i64)]) -> Pulled {
        let mut cursors: BTreeMap<_, _> = group_seqs.iter().copied().collect();
        let mut pulled = Pulled::default();
        loop {
            let asked: Vec<_> = cursors.iter().map(|(group, seq)| (*group, *seq)).collect();
            let page = self.sync_groups(seq, &asked).await;
            assert!(
                !page.has_more || page_messages(&page) > 0,
                "every page gets on: {page:?}"
            );
            pulled.pages += 1;
            let more = page.has_more;
            if let Some(last) = page.messages.last() {
                seq = last.seq;
            }
            pulled.messages.extend(page.messages);
            for group in page.groups {
                if let Some(last) = group.messages.last() {
                    cursors.insert(group.group_id, last.seq);
                }
                let held = pulled.groups.entry(group.group_id).or_default();
                if group.reset {
                    held.clear();
                    pulled.resets.insert(group.group_id);
                }
                held.extend(group.messages);
            }
            if !more {
                assert_gapless(&pulled.messages);
                pulled.groups.values().for_each(|held| assert_gapless(held));
                return pulled;
            }
        }
    }

    /// Says what this device holds of a large group, and waits until the server has read it.
    pub async fn ack_group(&mut self, group_id: i64, seq: i64) {
        let ack = MessageAck {
            device_ack: seq,
            receive_time: 1,
            group_id,
        };
        self.start(PackageType::PtMessage, &ack).await;
        self.heartbeat().await;
    }
}

/// How many messages a page has, of all timelines.
fn page_messages(page: &SyncOutput) -> usize {
    let groups = page.groups.iter().map(|group| group.messages.len());
    page.messages.len() + groups.sum::<usize>()
}

fn check_page(input: &SyncInput, page: &SyncOutput) {
    assert!(
        page_messages(page) <= PAGE_MESSAGES_MAX,
        "a page has at most {PAGE_MESSAGES_MAX} messages in all"
    );
    assert!(
        page.groups.is_sorted_by(|a, b| a.group_id < b.group_id),
        "groups by ascending id: {page:?}"
    );
    assert_gapless(&page.messages);
    for group in &page.groups {
        let id = group.group_id;
        assert!(input.group_seqs.contains_key(&id), "{id} was not asked for");
        assert!(
            page.has_more || !group.has_more,
            "{id} is unfinished, so the page is: {page:?}"
        );
        assert_gapless(&group.messages);
        for message in &group.messages {
            let to = (message.receiver_type, message.receiver_id);
            assert_eq!(to, (ReceiverType::RtLargeGroup.into(), id), "{message:?}");
        }
    }
}

#[track_caller]
fn assert_gapless(messages: &[Message]) {
    for pair in messages.windows(2) {
        assert_eq!(pair[1].seq, pair[0].seq + 1, "ascending and without gaps");
    }
}
