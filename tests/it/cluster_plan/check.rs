//! What must be true when a plan has come to rest: the invariants that a client can see.

use std::collections::{HashMap, HashSet};

use im::pb::Message;

use crate::support::{
    Transport,
    group_history::{GroupHistory, Outcome},
    groups::Group,
    wait::eventually,
};

use super::{
    device::Member,
    world::{Send, Target, World},
};

/// Far beyond what so small a load needs (I6).
const RESIDENT_BYTES_MAX: u64 = 512 << 20;

/// Everything that is stored.
struct Stored {
    /// By user.
    timelines: Vec<Vec<Message>>,
    large: Vec<Message>,
}

/// Panics where an invariant does not hold.
pub async fn check(world: &mut World) {
    let stored = read(world).await;
    for timeline in stored.timelines.iter().chain([&stored.large]) {
        check_timeline(timeline);
    }
    for (id, send) in &world.sends {
        if let Target::User(to) = send.target {
            check_direct(world, &stored, id, send, to);
        }
    }
    let small = GroupHistory::new(
        outcomes(world, Target::Small),
        of_group(&stored.timelines[0], world.small),
    );
    small.check_sends();
    let large = GroupHistory::new(outcomes(world, Target::Large), stored.large.clone());
    large.check_sends();
    large.check_seqs();
    for (user, timeline) in world.users.iter().zip(&stored.timelines) {
        small.check_member_timeline(user.user_id, &of_group(timeline, world.small));
        let synced = world.api().group_timeline(user, world.large).await;
        large.check_member_sync(user.user_id, &synced);
        large.check_notices(user.user_id, &but_for(timeline, world.small));
    }
    check_devices(world, &stored, &large).await;
    check_cursors(world, &stored).await;
    for instance in 0..super::world::INSTANCES {
        let resident = world.cluster[instance].resident_bytes();
        assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes (I6)");
    }
}

async fn read(world: &World) -> Stored {
    let mut timelines = Vec::new();
    for user in &world.users {
        timelines.push(world.api().timeline(user).await);
    }
    let large = world.api().group_timeline(&world.users[0], world.large);
    Stored {
        large: large.await,
        timelines,
    }
}

/// Seqs are 1, 2, 3 …, and no message and no send stands twice.
fn check_timeline(timeline: &[Message]) {
    let mut sends = HashSet::new();
    let mut messages = HashSet::new();
    for (message, seq) in timeline.iter().zip(1..) {
        assert_eq!(message.seq, seq, "no gap and no duplicate (I1)");
        assert!(messages.insert(message.message_id), "{message:?} (I1)");
        let id = &message.client_message_id;
        assert!(id.is_empty() || sends.insert(id), "{id} twice (I3)");
    }
}

/// A send to a user stands where its answer says, with both.
fn check_direct(world: &World, stored: &Stored, id: &str, send: &Send, to: usize) {
    let result = send.outcome.flatten().expect("it was stored in the end");
    let from = world.devices[send.device].user;
    let place = |user: usize| {
        let timeline: &[Message] = &stored.timelines[user];
        let found = timeline.iter().find(|m| m.client_message_id == id);
        found.unwrap_or_else(|| panic!("{id} was acknowledged and is lost (I2)"))
    };
    assert_eq!(place(from).seq, result.seq, "{id}: seq at the sender");
    for user in [from, to] {
        assert_eq!(place(user).message_id, result.message_id, "{id}");
    }
}

/// Every device that is online holds everything, by push where it did not sync (I5), and the jumps in
/// what it was pushed are its own sends (I4).
async fn check_devices(world: &mut World, stored: &Stored, large: &GroupHistory) {
    let members = large.members();
    for at in 0..world.devices.len() {
        let user = world.devices[at].user;
        let is_member = members.contains(&world.users[user].user_id);
        let own: HashSet<&String> = world
            .sends
            .iter()
            .filter(|(_, send)| send.device == at)
            .map(|(id, _)| id)
            .collect();
        let (timeline, large) = (&stored.timelines[user], &stored.large);
        let joined = large.len() - joined_before(large, world.users[user].user_id);
        let member = &mut world.devices[at];
        eventually(
            "a device that is online is given everything (I5)",
            async || {
                member.read().await;
                if member.session.is_none() {
                    return Some(());
                }
                let has_all = holds(member, 0, timeline);
                let has_group = !is_member || holds(member, 1, &large[joined..]);
                (has_all && has_group).then_some(())
            },
        )
        .await;
        let Some(session) = &member.session else {
            continue;
        };
        for (jumps, log) in session.jumps.iter().zip([timeline, large]) {
            for (before, after) in jumps {
                for seq in before + 1..*after {
                    let message = &log[seq as usize - 1];
                    let is_own = own.contains(&message.client_message_id);
                    // Between two memberships there is what is not for him.
                    let between = std::ptr::eq(log, large) && (seq as usize) <= joined;
                    assert!(is_own || between, "{seq} was not given to {at} (I4)");
                }
            }
        }
    }
}

/// How many messages stand behind the one that last announced the user, that one included.
fn joined_before(large: &[Message], user: i64) -> usize {
    let from_the_end = large.iter().rev();
    let position = from_the_end
        .clone()
        .position(|m| crate::support::events::added(m).contains(&user));
    position.map_or(0, |position| position + 1)
}

fn holds(member: &Member, at: usize, log: &[Message]) -> bool {
    log.iter()
        .all(|message| member.holds(at, message.seq) == Some(message.message_id))
}

/// A cursor beyond the head is reset, and no ack hides what was not acknowledged (I10).
async fn check_cursors(world: &World, stored: &Stored) {
    for (at, user) in world.users.iter().enumerate() {
        let device = world.api().another_device_of(user).await;
        let mut connection = world.api().connect(Transport::Tcp, &device).await;
        let head = stored.timelines[at].len() as i64;
        let first = connection
            .sync_after(0)
            .await
            .messages
            .first()
            .map(|m| m.seq);
        let begins = first.unwrap_or(head + 1);
        assert!(begins <= world.acked[at] + 1, "{begins} hides messages");
        assert!(connection.sync_after(head + 1_000).await.reset);
    }
}

fn outcomes(world: &World, target: Target) -> HashMap<String, Outcome> {
    let sends = world.sends.iter().filter(|(_, send)| send.target == target);
    let outcomes = sends.map(|(id, send)| {
        let outcome = Outcome {
            from: world.users[world.devices[send.device].user].user_id,
            result: send.outcome.expect("every send was answered in the end"),
        };
        (id.clone(), outcome)
    });
    outcomes.collect()
}

fn of_group(timeline: &[Message], group: Group) -> Vec<Message> {
    timeline.iter().filter(|m| group.got(m)).cloned().collect()
}

/// What does not belong to the group.
fn but_for(timeline: &[Message], group: Group) -> Vec<Message> {
    timeline.iter().filter(|m| !group.got(m)).cloned().collect()
}
