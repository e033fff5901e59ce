//! Random plans: a group's messages are given to exactly those who were members at their positions.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use super::{
    super::*,
    GROUP, USER, of,
    site::{Client, Site, words},
};
use crate::pb::{self, MessageType, ReceiverType};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The user joins the group, or leaves it.
    Move,
    Say,
    Whisper,
    /// The session does a little.
    Turn,
    Sync,
    /// A page is read, and given later.
    BeginSync,
    EndSync,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Move),
        5 => Just(Step::Say),
        3 => Just(Step::Whisper),
        6 => Just(Step::Turn),
        1 => Just(Step::Sync),
        1 => Just(Step::BeginSync),
        2 => Just(Step::EndSync),
    ]
}

/// What is true of the group.
#[derive(Default)]
struct Truth {
    /// The times of the membership: after which position, and the removal.
    stints: Vec<(i64, Option<i64>)>,
    whispers: usize,
}

impl Truth {
    fn is_member(&self) -> bool {
        self.stints.last().is_some_and(|(_, left)| left.is_none())
    }

    fn stint_of(&self, seq: i64) -> Option<(i64, Option<i64>)> {
        let covers = |(joined, left): &&(i64, Option<i64>)| {
            *joined < seq && left.is_none_or(|left| seq <= left)
        };
        self.stints.iter().find(covers).copied()
    }

    /// Checks what a session was given that followed from `begin` on.
    fn check(&self, begin: i64, given: &[pb::Message]) {
        let mut last = begin;
        let mut last_whisper = 0;
        for message in given {
            if message.receiver_type != ReceiverType::RtLargeGroup as i32 {
                continue;
            }
            if message.seq == 0 {
                let said = words(message);
                let (number, is_for_him) = said.split_once(' ').unwrap();
                assert_eq!(is_for_him, "true", "a whisper to members only");
                let number = number.parse().unwrap();
                assert!(
                    number > last_whisper,
                    "whisper {number} after {last_whisper}"
                );
                last_whisper = number;
                continue;
            }
            let seq = message.seq;
            let Some((joined, _)) = self.stint_of(seq) else {
                panic!("{seq} was given, but he was there {:?}", self.stints);
            };
            assert!(seq > last, "{seq} after {last}");
            assert!(
                seq == last + 1 || seq == joined + 1,
                "{seq} after {last}: a gap"
            );
            last = seq;
        }
        if self.is_member() {
            let seqs = given
                .iter()
                .filter(|m| m.message_type == MessageType::MtText as i32);
            let end = seqs.map(words).next_back();
            assert_eq!(end.as_deref(), Some("end"));
        }
    }
}

/// The highest position of the group that a session was given, or began after.
fn cursor(client: &Client, begin: i64) -> Seq {
    let seqs = client.group_seqs(GROUP);
    Seq(seqs.last().copied().unwrap_or(begin))
}

struct Run {
    site: Site,
    client: Client,
    truth: Truth,
    begin: i64,
    /// A page that was read and is not given yet.
    pending: Option<crate::timeline::sync::Synced>,
}

impl Run {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Move => self.change_membership(),
            Step::Say => {
                self.site.say(of(GROUP), "x");
            }
            Step::Whisper => {
                self.truth.whispers += 1;
                let words = format!("{} {}", self.truth.whispers, self.truth.is_member());
                self.site.whisper(Topic::Group(GROUP), &words);
            }
            Step::Turn => self.client.turn(Duration::from_micros(300)).await,
            Step::Sync => {
                self.begin_sync().await;
                self.end_sync();
            }
            Step::BeginSync => self.begin_sync().await,
            Step::EndSync => self.end_sync(),
        }
    }

    fn change_membership(&mut self) {
        if self.truth.is_member() {
            let left = self.site.leave(GROUP, USER).get();
            if let Some(stint) = self.truth.stints.last_mut() {
                stint.1 = Some(left);
            }
        } else {
            let joined = self.site.join(GROUP, USER).get();
            self.truth.stints.push((joined, None));
        }
    }

    async fn begin_sync(&mut self) {
        self.end_sync();
        let held = cursor(&self.client, self.begin);
        let own = self.client.link.head(Owner::User(USER)).unwrap();
        let page = self.client.begin_sync(own, &[(GROUP, held)]).await;
        self.pending = Some(page);
    }

    fn end_sync(&mut self) {
        let Some(page) = self.pending.take() else {
            return;
        };
        for group in &page.output.groups {
            self.client.given.extend(group.messages.iter().cloned());
        }
        self.client.link.synced(&page.ends);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn messages_are_given_to_exactly_those_who_were_members(
        before in vec(step(), 0..6),
        steps in vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let site = Site::new().await;
            let mut truth = Truth::default();
            for step in before {
                match step {
                    Step::Move if truth.stints.is_empty() => {
                        let joined = site.join(GROUP, USER).get();
                        truth.stints.push((joined, None));
                    }
                    _ => { site.say(of(GROUP), "x"); }
                }
            }
            let client = site.client(USER).await;
            let head = site.say(of(GROUP), "x").get();
            let mut run = Run { site, client, truth, begin: head - 1, pending: None };
            for step in steps {
                run.step(step).await;
            }
            run.end_sync();
            run.client.link.release();
            let is_member = run.truth.is_member();
            run.client.until("it follows", |c| {
                c.follows(GROUP) == is_member && c.link.memberships.is_settled()
            }).await;
            run.site.say(of(GROUP), "end");
            if is_member {
                run.client.until_given("end").await;
            }
            run.truth.check(run.begin, &run.client.given);
        });
    }
}
