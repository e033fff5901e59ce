//! Adds, removes and sends at the same time: a message is given to exactly those who were members at
//! its position, by push and by sync, and a send that was answered is there once. `IM_PLAN_SEED`
//! replays a run with other seeds than the usual ones.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use im::pb::{GroupType, Message, ReceiverType, SendMessageResp};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::support::{
    Api, Connection, Device, Server,
    crowd::ids,
    errors::{NOT_IN_GROUP, code},
    events::event,
    group_history::{GroupHistory, Outcome, merged},
    groups::Group,
    messages::{text, words},
    wait::within,
    wire::BOTH,
};
use im::pb::MessageType;

/// Users besides the creator, who is there from the first to the last.
const USERS: usize = 7;
const SENDS_EACH: usize = 60;
const CHANGES_EACH: usize = 70;
/// Tasks that change the membership at the same time.
const ADMINS: usize = 2;
const SEEDS: [u64; 2] = [3, 1_973];
const END: &str = "the end";
/// For all that one of them does, beside the others.
const LONG: Duration = Duration::from_secs(120);

fn seeds() -> Vec<u64> {
    let given = std::env::var("IM_PLAN_SEED");
    match given.ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => SEEDS.into(),
    }
}

/// What one user did and was given.
struct Part {
    device: Device,
    connection: Connection,
    outcomes: BTreeMap<String, Outcome>,
}

/// What a run left behind.
struct Run {
    creator: Device,
    group: Group,
    parts: Vec<Part>,
    outcomes: HashMap<String, Outcome>,
}

/// Members come and go while everybody sends, each on one of `instances`.
async fn run(instances: &[Api], kind: GroupType, seed: u64) -> Run {
    println!("IM_PLAN_SEED={seed}");
    let server = &instances[0];
    let on = |n: usize| instances[n % instances.len()].clone();
    let creator = server.new_user().await;
    let users = server.new_users(USERS).await;
    let mut connections = Vec::new();
    for (n, user) in users.iter().enumerate() {
        connections.push(on(n).connect(BOTH[n % 2], user).await);
    }
    let group = server
        .create_group(&creator, kind, &ids(&users[..USERS / 2]))
        .await;
    let mut admins = Vec::new();
    for n in 0..ADMINS {
        let (api, creator, users) = (on(n), creator.clone(), ids(&users));
        let random = StdRng::seed_from_u64(seed * 10 + n as u64);
        admins.push(tokio::spawn(async move {
            change_members(&api, &creator, group, &users, random).await;
        }));
    }
    let mut senders = Vec::new();
    for (device, connection) in users.into_iter().zip(connections) {
        let api = on(senders.len() + 1);
        let random = StdRng::seed_from_u64(seed * 100 + senders.len() as u64);
        senders.push(tokio::spawn(send_all(
            api, device, connection, group, random,
        )));
    }
    for admin in admins {
        within(LONG, "the changes", admin).await.expect("no panic");
    }
    let mut parts = Vec::new();
    for sender in senders {
        let part = within(LONG, "a sender", sender).await;
        parts.push(part.expect("no panic"));
    }
    let outcomes = merged(parts.iter().map(|p| p.outcomes.clone()).collect());
    let refused = outcomes.values().filter(|o| o.result.is_none()).count();
    assert!(refused > 0, "nobody was ever away");
    assert!(refused < outcomes.len(), "nobody was ever there");
    Run {
        creator,
        group,
        parts,
        outcomes,
    }
}

async fn change_members(
    api: &Api,
    creator: &Device,
    group: Group,
    users: &[i64],
    mut random: StdRng,
) {
    for _ in 0..CHANGES_EACH {
        if random.random() {
            let count = random.random_range(1..4);
            let chosen: Vec<_> = users.choose_multiple(&mut random, count).copied().collect();
            let added = api.add_members(creator, group.id, &chosen).await;
            added.expect("whoever is in already does not matter");
        } else {
            let user = *users.choose(&mut random).expect("there are users");
            if let Err(status) = api.remove_member(creator, group.id, user).await {
                assert_eq!(code(&status), NOT_IN_GROUP, "{status:?}");
            }
        }
    }
}

/// Sends over the connection and over gRPC, whether the user is a member or not.
async fn send_all(
    api: Api,
    device: Device,
    mut connection: Connection,
    group: Group,
    mut random: StdRng,
) -> Part {
    let mut outcomes = BTreeMap::new();
    for n in 0..SENDS_EACH {
        let id = format!("{}-{n}", device.user_id);
        let request = group.text_with_id("x", &id);
        let result: Option<SendMessageResp> = if random.random() {
            let answer = connection.try_send(&request).await;
            match answer.code {
                NOT_IN_GROUP => None,
                _ => Some(crate::support::connection::sent(&answer)),
            }
        } else {
            match api.try_send(&device, request).await {
                Ok(result) => Some(result),
                Err(status) => {
                    assert_eq!(code(&status), NOT_IN_GROUP, "{status:?}");
                    None
                }
            }
        };
        let from = device.user_id;
        outcomes.insert(id, Outcome { from, result });
    }
    Part {
        device,
        connection,
        outcomes,
    }
}

impl Part {
    /// The seqs of what the device sent.
    fn own(&self) -> HashSet<i64> {
        let results = self.outcomes.values().filter_map(|o| o.result);
        results.map(|result| result.seq).collect()
    }
}

fn is_end(message: &Message) -> bool {
    message.message_type == i32::from(MessageType::MtText) && words(message) == END
}

/// The parts of `timeline` that belong to the group.
fn of_group(timeline: &[Message], group: Group) -> Vec<Message> {
    timeline.iter().filter(|m| group.got(m)).cloned().collect()
}

#[tokio::test]
async fn a_small_group_gives_each_message_to_its_members_at_that_time() {
    let server = Server::start().await;
    check_small(&[server.clone_api()]).await;
}

/// Runs the plans for a small group on `instances` of one server.
pub async fn check_small(instances: &[Api]) {
    let server = instances.last().expect("one at least");
    for seed in seeds() {
        let run = run(instances, GroupType::GtSmall, seed).await;
        let log = server.timeline(&run.creator).await;
        assert!(log.iter().all(|m| run.group.got(m)));
        let history = GroupHistory::new(run.outcomes, log);
        history.check_sends();
        let members: Vec<_> = history.members().into_iter().collect();
        assert_eq!(server.member_ids(&run.creator, run.group.id).await, members);
        for mut part in run.parts {
            let user = part.device.user_id;
            server.send(&run.creator, text(user, END)).await;
            let timeline = server.timeline(&part.device).await;
            let last = timeline.last().expect("the end");
            assert!(is_end(last), "{last:?}");
            history.check_member_timeline(user, &of_group(&timeline, run.group));

            // The open connection was given the same, but for what the device sent itself.
            let own = part.own();
            let expected: Vec<_> = timeline
                .into_iter()
                .filter(|m| !own.contains(&m.seq))
                .collect();
            assert_eq!(part.connection.pushed(expected.len()).await, expected);
            part.connection.heartbeat().await;
            assert!(part.connection.take_pushes().is_empty());
        }
    }
}

#[tokio::test]
async fn a_large_group_gives_each_message_to_its_members_at_that_time() {
    let server = Server::start().await;
    check_large(&[server.clone_api()]).await;
}

/// Runs the plans for a large group on `instances` of one server.
pub async fn check_large(instances: &[Api]) {
    let server = instances.last().expect("one at least");
    for seed in seeds() {
        let mut run = run(instances, GroupType::GtLarge, seed).await;
        let id = "the end of all";
        let end = run.group.text_with_id(END, id);
        let result = Some(server.send(&run.creator, end).await);
        let from = run.creator.user_id;
        run.outcomes.insert(id.into(), Outcome { from, result });
        let log = server.group_timeline(&run.creator, run.group).await;
        let history = GroupHistory::new(run.outcomes, log);
        history.check_sends();
        history.check_seqs();
        let members = history.members();
        let listed = server.member_ids(&run.creator, run.group.id).await;
        assert_eq!(listed, members.iter().copied().collect::<Vec<_>>());
        for mut part in run.parts {
            let user = part.device.user_id;
            server.send(&run.creator, text(user, END)).await;
            let own = part.own();
            // A member sees the end of the group as well as his own.
            let ends = 1 + usize::from(members.contains(&user));
            let pushed = until_ends(&mut part.connection, ends).await;
            history.check_member_pushes(user, &of_group(&pushed, run.group), &own);
            let timeline = server.timeline(&part.device).await;
            history.check_notices(user, &timeline);
            let to_him = pushed
                .iter()
                .filter(|m| m.receiver_type() == ReceiverType::RtUser);
            assert_eq!(to_him.cloned().collect::<Vec<_>>(), timeline);
            let events = timeline.iter().filter(|m| event(m).is_some()).count();
            assert_eq!(events + 1, timeline.len(), "his own timeline, and the end");
            let synced = server.group_timeline(&part.device, run.group).await;
            history.check_member_sync(user, &synced);
        }
    }
}

/// All pushes, until the last message of so many timelines was seen.
async fn until_ends(connection: &mut Connection, mut ends: usize) -> Vec<Message> {
    let mut pushed = Vec::new();
    while ends > 0 {
        let message = connection.push().await;
        ends -= usize::from(is_end(&message));
        pushed.push(message);
    }
    connection.heartbeat().await;
    pushed.extend(connection.take_pushes());
    pushed
}
