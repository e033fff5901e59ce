//! The history of one group, and what must be true of it whatever happened: a message was given to
//! exactly those who were members at its position. Membership is derived from the events in the
//! group's own log, as a member sees it who was never away.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use im::pb::{Message, SendMessageResp};

use super::events::{Event, added, event};

/// What was tried, and the group's log with who was a member at each position.
#[derive(Debug)]
pub struct GroupHistory {
    outcomes: HashMap<String, Outcome>,
    log: Vec<Entry>,
}

/// How a send ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub from: i64,
    /// `None`: it was refused, because the sender was not a member.
    pub result: Option<SendMessageResp>,
}

/// One message of the group.
#[derive(Debug)]
struct Entry {
    message: Message,
    /// To whom it is given: an addition also to those added, a removal also to him who is removed.
    receivers: BTreeSet<i64>,
}

impl GroupHistory {
    /// The history of a group whose messages were `log`, in this order, from the creation on.
    pub fn new(outcomes: HashMap<String, Outcome>, log: Vec<Message>) -> Self {
        let mut members = BTreeSet::new();
        let log = log.into_iter().map(|message| {
            let receivers = apply(&mut members, &message);
            Entry { message, receivers }
        });
        Self {
            outcomes,
            log: log.collect(),
        }
    }

    /// Who is a member at the end.
    pub fn members(&self) -> BTreeSet<i64> {
        let mut members = BTreeSet::new();
        for entry in &self.log {
            apply(&mut members, &entry.message);
        }
        members
    }

    /// Every send that was answered stands in the log once, from somebody who was a member there;
    /// what was refused stands nowhere.
    pub fn check_sends(&self) {
        let mut places: HashMap<&str, &Entry> = HashMap::new();
        for entry in self.log.iter().filter(|e| event(&e.message).is_none()) {
            let id = entry.message.client_message_id.as_str();
            assert!(places.insert(id, entry).is_none(), "{id} stands twice (I3)");
            let outcome = self.outcomes.get(id);
            let outcome = outcome.unwrap_or_else(|| panic!("nobody sent {id:?}"));
            assert!(outcome.result.is_some(), "{id} was refused and stands");
            assert!(
                entry.receivers.contains(&outcome.from),
                "{id} is from {}, who was no member then (I8)",
                outcome.from
            );
        }
        for (id, outcome) in &self.outcomes {
            let Some(result) = outcome.result else {
                continue;
            };
            let entry = places.get(id.as_str());
            let entry = entry.unwrap_or_else(|| panic!("{id} was acknowledged and is lost (I2)"));
            assert_eq!(entry.message.message_id, result.message_id, "{id}");
        }
    }

    /// A large group's log is its timeline: seqs without gaps, which are those of the answers.
    pub fn check_seqs(&self) {
        for (entry, seq) in self.log.iter().zip(1..) {
            let message = &entry.message;
            assert_eq!(message.seq, seq, "the group's timeline (I1)");
            let outcome = self.outcomes.get(&message.client_message_id);
            if let Some(result) = outcome.and_then(|outcome| outcome.result) {
                assert_eq!(result.seq, seq, "{}", message.client_message_id);
            }
        }
    }

    /// What of a small group stands on `user`'s timeline is what he was a member for.
    pub fn check_member_timeline(&self, user: i64, of_group: &[Message]) {
        let expected = self.log.iter().filter(|e| e.receivers.contains(&user));
        let expected: Vec<_> = expected.map(|e| e.message.message_id).collect();
        let found: Vec<_> = of_group.iter().map(|m| m.message_id).collect();
        assert_eq!(found, expected, "what was given to {user} (I8)");
        for message in of_group {
            let outcome = self.outcomes.get(&message.client_message_id);
            let own = outcome.filter(|outcome| outcome.from == user);
            if let Some(result) = own.and_then(|outcome| outcome.result) {
                assert_eq!(message.seq, result.seq, "the answer's seq is the sender's");
            }
        }
    }

    /// What of a large group a member finds by sync: everything from his last joining on.
    pub fn check_member_sync(&self, user: i64, of_group: &[Message]) {
        let last = self.stays(user).pop().filter(|stay| stay.removed.is_none());
        let expected = last.map_or(0..0, |stay| stay.joined as usize..self.log.len() + 1);
        let expected: Vec<_> = expected.map(|seq| seq as i64).collect();
        let found: Vec<_> = of_group.iter().map(|m| m.seq).collect();
        assert_eq!(found, expected, "what {user} finds by sync (I8)");
    }

    /// What of a large group a connection of `user` was pushed that was open all the time; `own` is
    /// what its device sent. A stay that has ended may have been cut short, the last one may not.
    pub fn check_member_pushes(&self, user: i64, pushed: &[Message], own: &HashSet<i64>) {
        let ascending = pushed.windows(2).all(|pair| pair[0].seq < pair[1].seq);
        assert!(ascending, "{user} was given things twice or back (I4)");
        let mut rest: BTreeSet<_> = pushed.iter().map(|m| m.seq).collect();
        for stay in self.stays(user) {
            let end = stay.removed.unwrap_or(self.log.len() as i64);
            let given: Vec<_> = (stay.joined..=end).filter(|seq| rest.remove(seq)).collect();
            let reached = match stay.removed {
                Some(_) => given.last().copied().unwrap_or(stay.joined - 1),
                None => end,
            };
            let complete: Vec<_> = (stay.joined..=reached)
                .filter(|seq| !own.contains(seq))
                .collect();
            assert_eq!(given, complete, "{user} from {} on (I4)", stay.joined);
        }
        assert!(rest.is_empty(), "{user} was given {rest:?}, not his (I8)");
    }

    /// What a member of a large group is told on his own timeline: his comings and goings, in the
    /// order of the group's timeline.
    pub fn check_notices(&self, user: i64, own_timeline: &[Message]) {
        let about = |message: &Message| match event(message) {
            Some(Event::Added(_)) if added(message).contains(&user) => Some(true),
            Some(Event::Removed(push)) if push.deleted_user_id == user => Some(false),
            _ => None,
        };
        let expected: Vec<_> = self.log.iter().filter_map(|e| about(&e.message)).collect();
        let told: Vec<_> = own_timeline.iter().filter_map(about).collect();
        assert_eq!(told, expected, "the comings and goings of {user}");
    }

    /// The times a user was a member, as positions in the log.
    fn stays(&self, user: i64) -> Vec<Stay> {
        let mut stays: Vec<Stay> = Vec::new();
        for (entry, position) in self.log.iter().zip(1..) {
            match event(&entry.message) {
                Some(Event::Added(_)) if added(&entry.message).contains(&user) => {
                    stays.push(Stay {
                        joined: position,
                        removed: None,
                    });
                }
                Some(Event::Removed(push)) if push.deleted_user_id == user => {
                    let stay = stays.last_mut().expect("he joined before");
                    stay.removed = Some(position);
                }
                _ => {}
            }
        }
        stays
    }
}

/// One membership, from the event that announces it to the one that ends it.
#[derive(Clone, Copy, Debug)]
struct Stay {
    joined: i64,
    removed: Option<i64>,
}

/// Who is given `message`; `members` becomes what it is after it.
fn apply(members: &mut BTreeSet<i64>, message: &Message) -> BTreeSet<i64> {
    match event(message) {
        Some(Event::Added(_)) => {
            for user in added(message) {
                assert!(members.insert(user), "{user} was a member already");
            }
            members.clone()
        }
        Some(Event::Removed(push)) => {
            let before = members.clone();
            let user = push.deleted_user_id;
            assert!(members.remove(&user), "{user} was no member");
            before
        }
        _ => members.clone(),
    }
}

/// What several tasks tried, in one map.
pub fn merged(parts: Vec<BTreeMap<String, Outcome>>) -> HashMap<String, Outcome> {
    let count: usize = parts.iter().map(BTreeMap::len).sum();
    let all: HashMap<_, _> = parts.into_iter().flatten().collect();
    assert_eq!(all.len(), count, "ids are unique in a run");
    all
}

/// The checker itself: it finds what it is there to find.
mod tests {
    use im::pb::{
        AddGroupMembersPush, Command, GroupMember, MessageStatus, MessageType, PushCode,
        RemoveGroupMemberPush, Sender, SenderType,
    };
    use prost::Message as _;

    use super::*;

    fn push(seq: i64, code: PushCode, data: Vec<u8>) -> Message {
        let command = Command {
            code: code.into(),
            data: data.into(),
        };
        Message {
            sender: Some(Sender {
                sender_type: SenderType::StSystem.into(),
                ..Default::default()
            }),
            message_type: MessageType::MtCommand.into(),
            message_content: command.encode_to_vec().into(),
            status: MessageStatus::MsNormal.into(),
            seq,
            message_id: seq,
            ..Default::default()
        }
    }

    fn add(seq: i64, users: &[i64]) -> Message {
        let members = users.iter().map(|user_id| GroupMember {
            user_id: *user_id,
            ..Default::default()
        });
        let data = AddGroupMembersPush {
            members: members.collect(),
            ..Default::default()
        };
        push(seq, PushCode::PcAddGroupMembers, data.encode_to_vec())
    }

    fn remove(seq: i64, deleted_user_id: i64) -> Message {
        let data = RemoveGroupMemberPush {
            deleted_user_id,
            ..Default::default()
        };
        push(seq, PushCode::PcRemoveGroupMember, data.encode_to_vec())
    }

    fn text(seq: i64, id: &str) -> Message {
        Message {
            sender: Some(Sender::default()),
            seq,
            message_id: seq,
            client_message_id: id.into(),
            ..Default::default()
        }
    }

    /// User 1 was there all the time, user 2 from 3 to 5, both from 1 on but for that.
    fn good() -> GroupHistory {
        let log = vec![
            add(1, &[1]),
            text(2, "a"),
            add(3, &[2]),
            text(4, "b"),
            remove(5, 2),
            text(6, "c"),
        ];
        let outcome = |seq, from| Outcome {
            from,
            result: Some(SendMessageResp {
                seq,
                message_id: seq,
                send_time: 1,
            }),
        };
        let outcomes = [("a", 2, 1), ("b", 4, 2), ("c", 6, 1)];
        let outcomes = outcomes.map(|(id, seq, from)| (id.to_owned(), outcome(seq, from)));
        GroupHistory::new(outcomes.into(), log)
    }

    #[test]
    fn a_good_history_passes() {
        let history = good();
        history.check_sends();
        history.check_seqs();
        assert_eq!(history.members(), BTreeSet::from([1]));
        history.check_member_timeline(2, &[add(3, &[2]), text(4, "b"), remove(5, 2)]);
        let all: Vec<_> = history.log.iter().map(|e| e.message.clone()).collect();
        history.check_member_sync(1, &all);
        history.check_member_sync(2, &[]);
        history.check_member_pushes(1, &all[..5], &HashSet::from([6]));
        history.check_member_pushes(2, &[add(3, &[2])], &HashSet::from([4]));
        history.check_notices(2, &[add(1, &[2]), remove(2, 2)]);
    }

    #[test]
    #[should_panic(expected = "(I8)")]
    fn a_message_from_after_the_removal_is_found() {
        let given = [add(3, &[2]), text(4, "b"), remove(5, 2), text(6, "c")];
        good().check_member_pushes(2, &given, &HashSet::new());
    }

    #[test]
    #[should_panic(expected = "(I8)")]
    fn a_message_that_a_member_was_not_given_is_found() {
        good().check_member_timeline(2, &[add(3, &[2]), remove(5, 2)]);
    }

    #[test]
    #[should_panic(expected = "(I4)")]
    fn a_gap_in_a_stay_is_found() {
        let given = [add(3, &[2]), remove(5, 2)];
        good().check_member_pushes(2, &given, &HashSet::new());
    }

    #[test]
    #[should_panic(expected = "no member then")]
    fn a_send_of_a_stranger_is_found() {
        let mut history = good();
        history.outcomes.get_mut("c").expect("it is there").from = 2;
        history.check_sends();
    }

    #[test]
    #[should_panic(expected = "(I2)")]
    fn a_lost_send_is_found() {
        let mut history = good();
        history.log.pop();
        history.check_sends();
    }
}
