//! What a plan acts on: a cluster of killable instances with everything of its own, users with two
//! devices each, a small group and a large one.

use std::collections::BTreeMap;

use im::pb::{GetGroupsReq, GroupType, SendMessageReq, SendMessageResp};
use tonic::Status;

use crate::support::{
    Api, Cluster, Device, Process,
    balancer::is_ready,
    cluster::Plan,
    crowd::{all, ids},
    errors::{NOT_IN_GROUP, TRY_AGAIN_LATER, code},
    groups::Group,
    messages::text_with_id,
    wait::eventually,
    wire::BOTH,
};

use super::device::{Member, Outcome, Session, read_to_end};

pub const INSTANCES: usize = 3;
pub const USERS: usize = 4;
const DEVICES_EACH: usize = 2;
const INTERVAL_S: u64 = 2;

/// More calls at once than an instance has connections to its database.
const CALLS: usize = 64;

/// Where a send goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    User(usize),
    Small,
    Large,
}

/// A send of the plan.
#[derive(Debug)]
pub struct Send {
    pub device: usize,
    pub target: Target,
    pub outcome: Option<Outcome>,
}

pub struct World {
    pub cluster: Cluster<Process>,
    alive: [bool; INSTANCES],
    pub users: Vec<Device>,
    pub devices: Vec<Member>,
    /// A device that only asks whether an instance is well.
    probe: Device,
    /// Connections that a newer one of the same device must have ended.
    old: Vec<(usize, Session)>,
    pub small: Group,
    pub large: Group,
    pub sends: BTreeMap<String, Send>,
    /// The highest ack of any of a user's devices.
    pub acked: [i64; USERS],
}

impl World {
    pub async fn new() -> Self {
        let plan: Plan = Cluster::plan(INSTANCES)
            .with_own_database()
            .with_own_redis()
            .with_links()
            .set("delivery.reconcile_interval_s", INTERVAL_S)
            .set("devices.per_user_max", 1_000);
        let cluster = plan.start_processes().await;
        let users = cluster[0].new_users(USERS).await;
        let mut devices = Vec::new();
        for (user, device) in users.iter().enumerate() {
            devices.push(Member::new(device.clone(), user));
            for _ in 1..DEVICES_EACH {
                let other = cluster[0].another_device_of(device).await;
                devices.push(Member::new(other, user));
            }
        }
        let probe = cluster[0].new_user().await;
        let others = ids(&users[1..]);
        let make = async |kind| cluster[0].create_group(&users[0], kind, &others).await;
        let (small, large) = (
            make(GroupType::GtSmall).await,
            make(GroupType::GtLarge).await,
        );
        Self {
            cluster,
            alive: [true; INSTANCES],
            users,
            devices,
            probe,
            old: Vec::new(),
            small,
            large,
            sends: BTreeMap::new(),
            acked: [0; USERS],
        }
    }

    /// An instance that is there.
    pub fn api(&self) -> &Api {
        let at = self.alive.iter().position(|alive| *alive);
        &self.cluster[at.expect("one is left alive")]
    }

    pub async fn connect(&mut self, device: usize, instance: usize, over_tcp: bool) {
        if !self.alive[instance] {
            return;
        }
        let member = &mut self.devices[device];
        let older = member.session.take();
        let api = &self.cluster[instance];
        let transport = BOTH[usize::from(over_tcp)];
        member.connect(api, transport, self.large.id).await;
        match older {
            Some(older) if member.session.is_some() => self.old.push((device, older)),
            // The newer one was refused, so it may stay.
            older => {
                if member.session.is_none() {
                    member.session = older;
                }
            }
        }
    }

    pub fn disconnect(&mut self, device: usize) {
        let member = &mut self.devices[device];
        if let Some(session) = member.session.take() {
            member.lost(session);
        }
    }

    /// Sends to a user, or to one of the groups.
    pub async fn send(&mut self, device: usize, target: usize) {
        if self.devices[device].session.is_none() {
            return;
        }
        let target = match target {
            user if user < USERS => Target::User(user),
            odd if odd % 2 == 1 => Target::Small,
            _ => Target::Large,
        };
        let id = format!("{device}-{}", self.sends.len());
        let request = self.request(&id, target);
        let send = Send {
            device,
            target,
            outcome: None,
        };
        self.sends.insert(id.clone(), send);
        self.devices[device].send(id, request).await;
    }

    fn request(&self, id: &str, target: Target) -> SendMessageReq {
        match target {
            Target::User(user) => text_with_id(self.users[user].user_id, "x", id),
            Target::Small => self.small.text_with_id("x", id),
            Target::Large => self.large.text_with_id("x", id),
        }
    }

    pub async fn read(&mut self, device: usize) {
        self.devices[device].read().await;
    }

    pub async fn sync(&mut self, device: usize) {
        self.devices[device].sync(self.large.id).await;
    }

    pub async fn acknowledge(&mut self, device: usize) {
        let acked = self.devices[device].acknowledge().await;
        let highest = &mut self.acked[self.devices[device].user];
        *highest = acked.max(*highest);
    }

    /// Adds a user; whether it happened where no answer came shows in the group's log.
    pub async fn join(&mut self, user: usize, small: bool) {
        let group = if small { self.small } else { self.large };
        let id = [self.users[user].user_id];
        let answer = self.api().add_members(&self.users[0], group.id, &id).await;
        answered(answer, &[]);
    }

    pub async fn leave(&mut self, user: usize, small: bool) {
        let group = if small { self.small } else { self.large };
        let answer = self.api().leave(&self.users[user], group.id).await;
        answered(answer, &[NOT_IN_GROUP]);
    }

    /// Kills an instance, unless it is the last.
    pub fn kill(&mut self, instance: usize) {
        let alive = self.alive.iter().filter(|alive| **alive).count();
        if self.alive[instance] && alive > 1 {
            self.cluster[instance].kill();
            self.alive[instance] = false;
        }
    }

    pub async fn bring_back(&mut self) {
        for instance in 0..INSTANCES {
            if !self.alive[instance] {
                self.cluster[instance].start_again().await;
                self.alive[instance] = true;
            }
        }
    }

    /// Cuts an instance off from Redis, or lets the way swallow what is sent.
    pub async fn hurt_bridge(&mut self, instance: usize, cut: bool) {
        let redis = &self.cluster.links(instance).redis;
        if cut {
            redis.cut().await;
        } else {
            redis.swallow().await;
        }
    }

    pub async fn mend_bridges(&mut self) {
        for links in self.cluster.all_links() {
            links.redis.resume().await;
        }
    }

    pub async fn restart_database(&mut self) {
        let server = self.cluster.database_server();
        server.kill();
        server.start_again().await;
    }

    /// Makes everything well again. An instance may find its connections to the database broken one by
    /// one, and answers "try again" each time: it is well when it answers many calls at once.
    pub async fn heal(&mut self) {
        self.mend_bridges().await;
        self.bring_back().await;
        for instance in 0..INSTANCES {
            let api = &self.cluster[instance];
            eventually("an instance is ready", async || {
                is_ready(api).await.then_some(())
            })
            .await;
            eventually("an instance answers everything", async || {
                let calls = all((0..CALLS).map(|_| self.look_up(api))).await;
                let signs_in = self.probe_signs_in(api).await;
                (signs_in && calls.into_iter().all(|fine| fine)).then_some(())
            })
            .await;
        }
    }

    /// A sign-in that writes to the database.
    async fn probe_signs_in(&self, api: &Api) -> bool {
        let mut connection = api.open(BOTH[0]).await;
        connection.sign_in(&self.probe).await.code == 0
    }

    /// A call that needs the database.
    async fn look_up(&self, api: &Api) -> bool {
        let mut logic = api.logic(&self.users[0]);
        logic.get_groups(GetGroupsReq {}).await.is_ok()
    }

    /// Waits until every send has an answer, by trying again where there was none, and until only one
    /// connection of each device is left (I7).
    pub async fn settle(&mut self) {
        for (device, session) in std::mem::take(&mut self.old) {
            // A connection that has been replaced ends, or has ended with its instance.
            read_to_end(&mut self.devices[device], session).await;
        }
        for member in &mut self.devices {
            member.finish_sends().await;
            member.read().await;
        }
        for device in 0..self.devices.len() {
            let member = &mut self.devices[device];
            let (answered, unknown) = (
                std::mem::take(&mut member.answered),
                std::mem::take(&mut member.unknown),
            );
            for (id, outcome) in answered {
                self.answered(&id, outcome);
            }
            for id in unknown {
                let outcome = self.try_again(&id).await;
                self.answered(&id, outcome);
            }
        }
    }

    async fn try_again(&self, id: &str) -> Outcome {
        let send = &self.sends[id];
        let from = &self.devices[send.device].device;
        let request = self.request(id, send.target);
        eventually("a send is answered for good", async || {
            match self.api().try_send(from, request.clone()).await {
                Ok(result) => Some(Some(result)),
                Err(status) if code(&status) == NOT_IN_GROUP => Some(None),
                Err(status) => {
                    answered::<()>(Err(status), &[]);
                    None
                }
            }
        })
        .await
    }

    fn answered(&mut self, id: &str, outcome: Outcome) {
        let send = self.sends.get_mut(id).expect("it was sent");
        let first = send.outcome.get_or_insert(outcome);
        assert_eq!(*first, outcome, "{id} was answered in two ways (I3)");
        let Some(SendMessageResp {
            seq, message_id, ..
        }) = outcome
        else {
            return;
        };
        // Of what it sent, a device has the reply.
        let at = usize::from(send.target == Target::Large);
        let device = &mut self.devices[send.device];
        let known = device.holds(at, seq).unwrap_or(message_id);
        assert_eq!(known, message_id, "{id} (I1)");
        device.own[at].insert(seq, message_id);
    }
}

/// Refused for one of these reasons, or because the database was away: anything else is wrong.
fn answered<T>(answer: Result<T, Status>, expected: &[i32]) {
    if let Err(status) = answer {
        let code = code(&status);
        // The call broke off with its instance.
        let broken = status.code() == tonic::Code::Unavailable;
        let fine = broken || code == TRY_AGAIN_LATER || expected.contains(&code);
        assert!(fine, "{status:?}");
    }
}
