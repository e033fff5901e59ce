//! The history of a run, and what must be true of it whatever happened: every acknowledged send
//! stands exactly once where it must, nothing stands twice, and no timeline has a gap.

use std::collections::{BTreeMap, HashMap, HashSet};

use im::pb::{Message, SendMessageResp};

/// What was tried, what was acknowledged, and what was seen.
#[derive(Debug, Default)]
pub struct History {
    attempts: HashMap<String, Attempt>,
    timelines: BTreeMap<i64, Vec<Message>>,
    deliveries: Vec<Delivery>,
}

#[derive(Debug)]
struct Attempt {
    from: i64,
    to: i64,
    acknowledged: Option<SendMessageResp>,
}

/// What one connection was given by push, in its order.
#[derive(Debug)]
struct Delivery {
    user: i64,
    messages: Vec<Message>,
    /// What the same device sent: it is not given that back.
    own: HashSet<i64>,
}

impl History {
    /// A send is about to leave.
    pub fn attempted(&mut self, id: &str, from: i64, to: i64) {
        self.attempts.entry(id.into()).or_insert(Attempt {
            from,
            to,
            acknowledged: None,
        });
    }

    /// A send was answered; every answer to the same send is the same.
    pub fn acknowledged(&mut self, id: &str, result: SendMessageResp) {
        let attempt = self.attempts.get_mut(id).expect("it was attempted");
        let first = attempt.acknowledged.get_or_insert(result);
        assert_eq!(*first, result, "{id} was answered in two ways");
    }

    /// How many sends were acknowledged.
    pub fn acknowledgements(&self) -> usize {
        let attempts = self.attempts.values();
        attempts.filter(|a| a.acknowledged.is_some()).count()
    }

    /// How many sends were not acknowledged.
    pub fn unanswered(&self) -> usize {
        self.attempts.len() - self.acknowledgements()
    }

    /// Adds what another task has recorded.
    pub fn merge(&mut self, other: Self) {
        for (id, attempt) in other.attempts {
            let known = self.attempts.insert(id, attempt);
            assert!(known.is_none(), "ids are unique in a run");
        }
        self.timelines.extend(other.timelines);
        self.deliveries.extend(other.deliveries);
    }

    /// What a connection of `user` was given by push; `own` are the seqs of what its device sent.
    pub fn delivered(&mut self, user: i64, messages: Vec<Message>, own: HashSet<i64>) {
        self.deliveries.push(Delivery {
            user,
            messages,
            own,
        });
    }

    /// The whole timeline of `user`, as synced from the start after the run.
    pub fn timeline(&mut self, user: i64, messages: Vec<Message>) {
        self.timelines.insert(user, messages);
    }

    /// Panics where the history breaks a promise.
    pub fn check(&self) {
        for (user, messages) in &self.timelines {
            self.check_timeline(*user, messages);
        }
        for (id, attempt) in &self.attempts {
            self.check_attempt(id, attempt);
        }
        for delivery in &self.deliveries {
            self.check_delivery(delivery);
        }
    }

    /// Seqs are 1, 2, 3 …, and each message was attempted and stands once.
    fn check_timeline(&self, user: i64, messages: &[Message]) {
        let mut message_ids = HashSet::new();
        let mut client_ids = HashSet::new();
        for (at, message) in messages.iter().enumerate() {
            assert_eq!(message.seq, at as i64 + 1, "the timeline of {user} (I1)");
            let id = &message.client_message_id;
            assert!(client_ids.insert(id), "{id} stands twice at {user} (I3)");
            assert!(message_ids.insert(message.message_id), "{id}: message id");
            let attempt = self.attempts.get(id);
            let attempt = attempt.unwrap_or_else(|| panic!("nobody sent {id:?}: {message:?}"));
            assert!(
                user == attempt.from || user == attempt.to,
                "{id} stands at {user}, who has no part in it"
            );
        }
    }

    /// An acknowledged send stands where its answer says; any other stands everywhere or nowhere.
    fn check_attempt(&self, id: &str, attempt: &Attempt) {
        let at_sender = self.find(attempt.from, id);
        let at_receiver = self.find(attempt.to, id);
        assert_eq!(
            at_sender.map(|m| m.message_id),
            at_receiver.map(|m| m.message_id),
            "{id} stands with the sender and the receiver, or with neither"
        );
        if let Some(result) = &attempt.acknowledged {
            let message =
                at_sender.unwrap_or_else(|| panic!("{id} was acknowledged and is lost (I2)"));
            assert_eq!(message.seq, result.seq, "{id}: seq at the sender");
            assert_eq!(message.message_id, result.message_id, "{id}: message id");
        }
    }

    /// In order, and without gaps but for the device's own sends (I4); the same messages as the
    /// timeline has.
    fn check_delivery(&self, delivery: &Delivery) {
        let Delivery {
            user,
            messages,
            own,
        } = delivery;
        for pair in messages.windows(2) {
            let (before, after) = (pair[0].seq, pair[1].seq);
            assert!(before < after, "{user} was given {after} after {before}");
            let missed: Vec<_> = (before + 1..after)
                .filter(|seq| !own.contains(seq))
                .collect();
            assert!(missed.is_empty(), "{user} was not given {missed:?} (I4)");
        }
        for message in messages {
            assert!(
                !own.contains(&message.seq),
                "{user}: its own send was pushed"
            );
            let timeline = self.timelines.get(user).expect("its timeline was synced");
            let stored = timeline.get(message.seq as usize - 1);
            assert_eq!(
                stored.map(|m| m.message_id),
                Some(message.message_id),
                "{user} was given another message at {}",
                message.seq
            );
        }
    }

    fn find(&self, user: i64, id: &str) -> Option<&Message> {
        let timeline = self
            .timelines
            .get(&user)
            .expect("every timeline was synced");
        timeline.iter().find(|m| m.client_message_id == id)
    }
}

/// The checker itself: it finds what it is there to find.
mod tests {
    use super::*;

    fn message(seq: i64, id: &str) -> Message {
        Message {
            seq,
            message_id: id.bytes().map(i64::from).sum(),
            client_message_id: id.into(),
            ..Default::default()
        }
    }

    fn result(seq: i64, id: &str) -> SendMessageResp {
        SendMessageResp {
            seq,
            message_id: message(seq, id).message_id,
            send_time: 1,
        }
    }

    /// User 1 sent `a` and `b` to user 2, and both were acknowledged.
    fn good() -> History {
        let mut history = History::default();
        for (seq, id) in [(1, "a"), (2, "b")] {
            history.attempted(id, 1, 2);
            history.acknowledged(id, result(seq, id));
        }
        for user in [1, 2] {
            history.timeline(user, vec![message(1, "a"), message(2, "b")]);
        }
        history
    }

    #[test]
    fn a_good_history_passes() {
        let mut history = good();
        history.attempted("unknown", 1, 2);
        history.delivered(2, vec![message(1, "a"), message(2, "b")], HashSet::new());
        history.delivered(1, vec![message(1, "a")], HashSet::from([2]));
        history.check();
    }

    #[test]
    #[should_panic(expected = "(I1)")]
    fn a_gap_is_found() {
        let mut history = good();
        history.timeline(2, vec![message(1, "a"), message(3, "b")]);
        history.check();
    }

    #[test]
    #[should_panic(expected = "the receiver")]
    fn a_loss_is_found() {
        let mut history = good();
        history.timeline(2, vec![message(1, "a")]);
        history.check();
    }

    #[test]
    #[should_panic(expected = "(I2)")]
    fn a_loss_on_both_sides_is_found() {
        let mut history = good();
        for user in [1, 2] {
            history.timeline(user, vec![message(1, "a")]);
        }
        history.check();
    }

    #[test]
    #[should_panic(expected = "(I3)")]
    fn a_duplicate_is_found() {
        let mut history = good();
        let twice = vec![message(1, "a"), message(2, "b"), message(3, "b")];
        history.timeline(2, twice);
        history.check();
    }

    #[test]
    #[should_panic(expected = "(I4)")]
    fn a_gap_in_what_was_pushed_is_found() {
        let mut history = good();
        history.attempted("c", 1, 2);
        for user in [1, 2] {
            let all = vec![message(1, "a"), message(2, "b"), message(3, "c")];
            history.timeline(user, all);
        }
        history.delivered(2, vec![message(1, "a"), message(3, "c")], HashSet::new());
        history.check();
    }

    #[test]
    #[should_panic(expected = "in two ways")]
    fn two_answers_to_one_send_are_found() {
        good().acknowledged("a", result(5, "a"));
    }
}
