//! A server's parts around sessions, and a session that a test drives step by step.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::{
    FutureExt,
    future::{BoxFuture, pending, ready},
};
use prost::Message as _;
use tokio::sync::Notify;

use super::super::*;
use crate::{
    auth::SignIns,
    clock::Clock as _,
    config::Config,
    delivery::{
        bridge::{Bridge, News},
        push::{Push, Template},
        router::Router,
    },
    gateway::frame::Frame,
    id::{GroupId, RoomId},
    lifecycle::Tasks,
    pb::{self, MessageType, PushCode, ReceiverType, SenderType},
    store,
    telemetry::Metrics,
    testing::{World, rows::Rows},
    timeline::{ack::Acks, pages::Pages, sync},
};

/// How long a test waits for what must come.
const LONG: Duration = Duration::from_secs(20);

/// A server without edges.
pub(super) struct Site {
    pub(super) gateway: Arc<Gateway>,
    pub(super) bridge: Arc<Unsteady>,
    rows: Rows,
    world: World,
}

/// A bridge to nobody, on which subscribing to groups may take for ever.
#[derive(Debug, Default)]
pub(super) struct Unsteady {
    pub(super) holds_groups: AtomicBool,
    /// Somebody waits for that.
    pub(super) held: Notify,
}

impl Bridge for Unsteady {
    fn subscribe(&self, topics: &[Topic]) -> BoxFuture<'static, ()> {
        let has_groups = matches!(topics, [Topic::Group(_), ..]);
        if has_groups && self.holds_groups.load(Ordering::SeqCst) {
            self.held.notify_one();
            return pending().boxed();
        }
        ready(()).boxed()
    }

    fn unsubscribe(&self, _topic: Topic) {}

    fn publish(&self, _topic: Topic, _push: &Push, _after: Seq) {}

    fn has_room(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn tell(&self, _news: News) {}

    fn is_alone(&self) -> bool {
        true
    }
}

/// A device that is signed in.
pub(super) struct Client {
    pub(super) link: Box<Link>,
    gateway: Arc<Gateway>,
    out: BytesMut,
    /// What it was given, in order.
    pub(super) given: Vec<pb::Message>,
}

impl Site {
    pub(super) async fn new() -> Self {
        let world = World::new().await;
        let (tasks, metrics) = (Tasks::default(), Arc::new(Metrics::default()));
        let bridge = Arc::new(Unsteady::default());
        let router = Router::new(
            Arc::clone(&bridge) as _,
            tasks.clone(),
            Arc::clone(&metrics),
        );
        let pages = Pages::new(
            world.store.clone(),
            Arc::clone(&world.directory),
            tasks.clone(),
            Arc::clone(&metrics),
        );
        let sign_ins = SignIns::start(
            world.store.clone(),
            Arc::clone(&world.clock) as _,
            Arc::clone(&metrics),
            None,
            &tasks,
        );
        let gateway = Gateway {
            config: Config::default().session,
            store: world.store.clone(),
            load_turns: LoadTurns::default(),
            sign_ins,
            authenticator: Arc::clone(&world.authenticator),
            registry: Arc::clone(&world.registry),
            presence: Arc::clone(&world.sending.presence),
            router: Arc::new(router),
            messages: Arc::clone(&world.messages),
            pages: Arc::new(pages),
            acks: Arc::new(Acks::default()),
            draining: tasks.stop().clone(),
            tasks,
            metrics,
        };
        Self {
            gateway: Arc::new(gateway),
            bridge,
            rows: Rows::new(world.foreign_connection()),
            world,
        }
    }

    /// A new device of `user`, signed in.
    pub(super) async fn client(&self, user: UserId) -> Client {
        let (device, token) = self.device(user).await;
        self.sign_in(user, device, &token).await.unwrap()
    }

    /// A new device of `user`, and its token.
    pub(super) async fn device(&self, user: UserId) -> (DeviceId, String) {
        let device = self.world.device().await;
        let tx = self.world.store.begin().await.unwrap();
        let now = self.world.clock.now_ms();
        let assigned = store::device::assign(tx.conn(), device, user, now).await;
        assert!(assigned.unwrap());
        let issued = self.world.authenticator.issue(tx.conn(), user, device);
        let issued = issued.await.unwrap();
        let revoking = self.world.authenticator.commit_revoking(tx, issued.revoked);
        revoking.await.unwrap();
        (device, issued.token)
    }

    /// A device signs in.
    pub(super) async fn sign_in(
        &self,
        user: UserId,
        device: DeviceId,
        token: &str,
    ) -> Result<Client> {
        let link = Link::sign_in(&self.gateway, user, device, token).await?;
        Ok(Client {
            link,
            gateway: Arc::clone(&self.gateway),
            out: BytesMut::new(),
            given: Vec::new(),
        })
    }

    /// Stores a message and publishes it, as the writer does.
    pub(super) fn say(&self, owner: Owner, words: &str) -> Seq {
        let message = text(owner, words);
        let seq = self.rows.transaction(|rows| rows.append(owner, &message));
        self.publish(owner.into(), seq, message);
        seq
    }

    /// Publishes a message that is not stored.
    pub(super) fn whisper(&self, topic: Topic, words: &str) {
        let message = match topic.owner() {
            Some(owner) => text(owner, words),
            None => content(ReceiverType::RtRoom, 0, words.as_bytes()),
        };
        self.publish(topic, Seq::ZERO, message);
    }

    pub(super) fn publish(&self, topic: Topic, seq: Seq, message: pb::Message) {
        let template = Arc::new(Template::new(message, DeviceId(0)));
        self.gateway.router.publish(topic, seq, &template);
    }

    /// Adds a member and says so to the group and to him. Returns the position he joined at.
    pub(super) fn join(&self, group: GroupId, user: UserId) -> Seq {
        let code = PushCode::PcAddGroupMembers;
        self.change(group, user, code, |rows| rows.join(group, user))
    }

    /// Removes a member and says so to the group and to him. Returns the position of the removal.
    pub(super) fn leave(&self, group: GroupId, user: UserId) -> Seq {
        let code = PushCode::PcRemoveGroupMember;
        let left = self.change(group, user, code, |rows| {
            rows.leave(group, user);
            rows.head(Owner::Group(group))
        });
        left.next()
    }

    fn change(
        &self,
        group: GroupId,
        user: UserId,
        code: PushCode,
        change: impl FnOnce(&Rows) -> Seq,
    ) -> Seq {
        let added = pb::AddGroupMembersPush {
            group_id: group.get(),
            ..Default::default()
        };
        let removed = pb::RemoveGroupMemberPush {
            deleted_user_id: user.get(),
            group_id: group.get(),
            ..Default::default()
        };
        let data = match code {
            PushCode::PcAddGroupMembers => added.encode_to_vec(),
            _ => removed.encode_to_vec(),
        };
        let command = pb::Command {
            code: code as i32,
            data: data.into(),
        };
        let news = |to, id| pb::Message {
            sender: Some(pb::Sender {
                sender_type: SenderType::StSystem as i32,
                ..Default::default()
            }),
            message_type: MessageType::MtCommand as i32,
            ..content(to, id, &command.encode_to_vec())
        };
        let event = news(ReceiverType::RtLargeGroup, group.get());
        let mut notice = news(ReceiverType::RtUser, 0);
        let (group, user) = (Owner::Group(group), Owner::User(user));
        let (at, event_seq, notice_seq) = self.rows.transaction(|rows| {
            let at = change(rows);
            (at, rows.append(group, &event), rows.append(user, &notice))
        });
        notice.message_id = self.rows.last_message().get();
        self.publish(group.into(), event_seq, event);
        self.publish(user.into(), notice_seq, notice);
        at
    }
}

impl Client {
    /// Writes what can be written, then waits for one event or until `pause` is over.
    pub(super) async fn turn(&mut self, pause: Duration) {
        let framing = Framing::Tcp;
        self.link.take_ready();
        self.link.pull(&self.gateway, &framing, &mut self.out);
        if let Ok(event) = tokio::time::timeout(pause, self.link.event()).await {
            match event {
                Event::Woken => self.link.take_ready(),
                Event::CaughtUp(slot, pushes) => {
                    let out = &mut self.out;
                    self.link.take_caught_up(slot, &pushes, &framing, out);
                }
                Event::Loaded(loaded) => self.link.take_loaded(*loaded),
            }
        }
        while let Ok(Some(Frame::Body(body))) = Framing::Tcp.next(&mut self.out) {
            let output = pb::Output::decode(body).unwrap();
            let push = pb::MessageSend::decode(output.data).unwrap();
            self.given.extend(push.message);
        }
    }

    /// Goes on until something is so.
    pub(super) async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what}; given: {:?}", self.given);
            self.turn(Duration::from_millis(5)).await;
        }
    }

    /// Goes on until it was given a message with these words.
    pub(super) async fn until_given(&mut self, words: &str) {
        let is_given = |client: &Self| client.words().iter().any(|given| given == words);
        self.until(&format!("{words:?} does not come"), is_given)
            .await;
    }

    /// The texts it was given, in order.
    pub(super) fn words(&self) -> Vec<String> {
        let texts = self.given.iter();
        let texts = texts.filter(|message| message.message_type == MessageType::MtText as i32);
        texts.map(words).collect()
    }

    /// The seqs of a group that it was given, in order.
    pub(super) fn group_seqs(&self, group: GroupId) -> Vec<i64> {
        let is_of = |message: &&pb::Message| {
            message.receiver_type == ReceiverType::RtLargeGroup as i32
                && message.receiver_id == group.get()
                && message.seq > 0
        };
        let messages = self.given.iter().filter(is_of);
        messages.map(|message| message.seq).collect()
    }

    pub(super) fn follows(&self, group: GroupId) -> bool {
        self.link.follows.of_group(group).is_some()
    }

    /// A timeline is being read because its feed has left the session behind.
    pub(super) fn is_catching_up(&self) -> bool {
        let waiting = self.link.waiting.get();
        waiting.is_some_and(|waiting| waiting.catching_up.is_some())
    }

    /// Asks for a page, as a device does.
    pub(super) async fn sync(&mut self, seq: Seq, groups: &[(GroupId, Seq)]) -> pb::SyncOutput {
        let page = self.begin_sync(seq, groups).await;
        self.link.synced(&page.ends);
        page.output
    }

    /// Asks for a page that is read but not given yet.
    pub(super) async fn begin_sync(&mut self, seq: Seq, groups: &[(GroupId, Seq)]) -> sync::Synced {
        let input = pb::SyncInput {
            seq: seq.get(),
            group_seqs: groups.iter().map(|(g, s)| (g.get(), s.get())).collect(),
            ..Default::default()
        };
        self.link.hold(groups.iter().map(|(group, _)| *group));
        let Gateway { pages, acks, .. } = &*self.gateway;
        let user = self.link.user;
        sync::sync(pages, acks, user, &input).await.unwrap()
    }

    /// Moves to a room, as `dispatch` and the connection do.
    pub(super) async fn enter(&mut self, room: Option<RoomId>) {
        let lease = match room {
            Some(room) => Some(self.gateway.router.lease(Topic::Room(room)).await),
            None => None,
        };
        self.link.enter_room(lease);
    }
}

/// The words of a text.
pub(super) fn words(message: &pb::Message) -> String {
    String::from_utf8(message.message_content.to_vec()).unwrap()
}

fn text(owner: Owner, words: &str) -> pb::Message {
    let to = match owner {
        Owner::User(_) => ReceiverType::RtUser,
        Owner::Group(_) => ReceiverType::RtLargeGroup,
    };
    content(to, owner.id(), words.as_bytes())
}

pub(super) fn content(to: ReceiverType, id: i64, content: &[u8]) -> pb::Message {
    pb::Message {
        sender: Some(pb::Sender {
            sender_type: SenderType::StBusiness as i32,
            ..Default::default()
        }),
        receiver_type: to as i32,
        receiver_id: id,
        message_type: MessageType::MtText as i32,
        message_content: content.to_vec().into(),
        ..Default::default()
    }
}
