//! What a connection holds once it has signed in: its place in the registry and the feeds it
//! follows, with its position in each. Dropping it gives all of that back.
//!
//! It follows its user's timeline, his large groups, what goes to everyone, and a room if it has
//! subscribed to one. Here stand the sign-in and the reading of feeds; beside it, reading timelines
//! for those that were left behind (`catch_up`), waiting for syncs (`holding`), and following his
//! groups as they change (`memberships`, `adopt`).

use std::sync::Arc;

use bytes::BytesMut;

pub use self::memberships::LoadTurns;
use self::{
    follows::{Doubt, Follows, SlotKey},
    memberships::{Loaded, Memberships},
    outlet::{Noticed, Outlet},
    seldom::Seldom,
    waiting::Waiting,
};
use super::{Gateway, frame::Framing};
use crate::{
    auth::{Claim, sign_in::SignedIn},
    delivery::{
        bridge::News,
        feed::Read,
        handle::{Credential, Eviction, Handle},
        registry::Registry,
        router::Lease,
        topic::Topic,
    },
    error::{Code, Error, Result},
    id::{DeviceId, Owner, Seq, UserId},
    limits::WRITE_BUFFER_BYTES_MAX,
    store::within_deadline,
    timeline::{ack::Key, pages::Pushes},
};

mod adopt;
mod catch_up;
mod follows;
mod holding;
mod memberships;
mod outlet;
mod seldom;
#[cfg(test)]
mod tests;
mod waiting;

/// A signed-in session's hold on the rest of the server.
pub(super) struct Link {
    pub(super) user: UserId,
    /// The head of its user's timeline when it signed in: where its pushes begin.
    pub(super) signed_in_at: Seq,
    /// What the device had acknowledged of its user's timeline by then.
    pub(super) acked: Seq,
    entered: Entered,
    follows: Follows,
    memberships: Memberships,
    room: Option<SlotKey>,
    waiting: Seldom<Waiting>,
}

/// Every session has one, idle or not: 192 bytes are a size that the allocator has.
const _: () = assert!(size_of::<Link>() <= 192);

/// What happens to a session without the device's doing.
pub(super) enum Event {
    /// A feed has something new, or the session was evicted.
    Woken,
    /// The timeline of this slot's feed was read.
    CaughtUp(SlotKey, Pushes),
    /// The user's memberships were loaded.
    Loaded(Box<Loaded>),
}

/// A place in the registry.
struct Entered {
    handle: Arc<Handle>,
    registry: Arc<Registry>,
}

/// The slot of the user's own feed.
const USER_SLOT: SlotKey = 0;
/// The feeds that every session follows: its user's, and everyone's.
const FOLLOWS_MIN: usize = 2;

impl Link {
    /// Signs a device in: it enters the registry, its user's feed is listed, its token is checked
    /// and its generation raised, and only then is it live. In this order a revocation, a newer
    /// sign-in or a message that comes meanwhile finds it.
    ///
    /// # Errors
    /// 10000 when the credential does not hold; 10003 when too many sign in; 10004 when the
    /// database does not answer or the instance is draining.
    pub(super) async fn sign_in(
        gateway: &Gateway,
        user: UserId,
        device: DeviceId,
        token: &str,
    ) -> Result<Box<Self>> {
        let claim = gateway.authenticator.claim(user, device, token);
        let claim = claim.ok_or_else(Error::sign_in_again)?;
        if gateway.draining.is_cancelled() {
            return Err(Error::try_again("this instance is shutting down"));
        }
        let entered = Entered::new(device, &gateway.registry);
        within_deadline(Self::enter(gateway, entered, claim, token)).await
    }

    /// What follows once a session has entered the registry.
    async fn enter(
        gateway: &Gateway,
        entered: Entered,
        claim: Claim,
        token: &str,
    ) -> Result<Box<Self>> {
        let Claim { user, device, .. } = claim;
        let topics = [Topic::User(user), Topic::Everyone];
        let [lease, everyone] = gateway.router.lease_both(topics).await;
        // Memory before the database: an ack that is written in between is seen twice, not never.
        let unwritten = gateway.acks.unwritten(&Key {
            user,
            owner: Owner::User(user),
            device,
        });
        let signed = prove(gateway, claim, token).await?;
        lease.open(signed.head);
        let mut follows = Follows::new(&gateway.router, &entered.handle, FOLLOWS_MIN);
        follows.follow(lease, Some(signed.head));
        follows.follow(everyone, None);
        let mut link = Box::new(Self {
            user,
            signed_in_at: signed.head,
            acked: signed.acked.max(unwritten),
            entered,
            follows,
            memberships: Memberships::new(signed.head),
            room: None,
            waiting: Seldom::new(),
        });
        link.follow_groups(gateway, &signed.memberships).await?;
        // Only now, when nothing can fail any more: an older session of the device ends by it.
        let credential = Credential {
            user,
            generation: signed.generation,
            token_hash: claim.token_hash,
            expires_at: signed.expires_at,
        };
        let generation = credential.generation;
        gateway.registry.sign_in(link.handle(), credential);
        gateway.router.tell(News::SignedIn {
            user,
            device,
            generation,
        });
        if signed.is_new_device {
            gateway.authenticator.device_taken(user, device);
        }
        if gateway.draining.is_cancelled() {
            link.handle().evict(Eviction::Draining);
        }
        Ok(link)
    }

    pub(super) fn device(&self) -> DeviceId {
        self.handle().device()
    }

    pub(super) fn shared_handle(&self) -> Arc<Handle> {
        Arc::clone(&self.entered.handle)
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.entered.handle
    }

    /// The last position that this instance knows of the user's timeline, or of a large group's
    /// that the session follows: the feed's head, or beyond it what the session was given. Of a
    /// group that it does not follow yet, what a sync gave it.
    pub(super) fn head(&self, owner: Owner) -> Option<Seq> {
        let slot = match owner {
            Owner::User(_) => Some(USER_SLOT),
            Owner::Group(group) => self.follows.of_group(group),
        };
        match (slot, owner) {
            (Some(slot), _) => {
                let follow = self.follows.get(slot)?;
                (follow.doubt == Doubt::None).then(|| follow.head())
            }
            (None, Owner::Group(group)) => {
                let end = self.memberships.early(group).end;
                (end > Seq::ZERO).then_some(end)
            }
            (None, Owner::User(_)) => None,
        }
    }

    /// Moves to another room, or with `None` out of the one it is in.
    pub(super) fn enter_room(&mut self, lease: Option<Lease>) {
        let room = lease.as_ref().and_then(|lease| match lease.topic() {
            Topic::Room(room) => Some(room),
            Topic::User(_) | Topic::Group(_) | Topic::Everyone => None,
        });
        // Who is in it already stays where he is in its feed.
        if room.is_some() && room == self.handle().room() {
            return;
        }
        if let Some(slot) = self.room.take() {
            self.unfollow(slot);
        }
        self.room = lease.map(|lease| self.follows.follow(lease, None));
        let Entered { handle, registry } = &self.entered;
        registry.enter_room(handle, room);
    }

    /// Takes over what the feeds have reported.
    pub(super) fn take_ready(&mut self) {
        self.follows.take_ready();
    }

    /// Writes what the feeds have into `out`, until nothing is left or `out` is full, and begins to
    /// read and load what is missing. Returns how many messages it wrote.
    pub(super) fn pull(
        &mut self,
        gateway: &Arc<Gateway>,
        framing: &Framing,
        out: &mut BytesMut,
    ) -> u32 {
        let mut given = 0;
        while out.len() < WRITE_BUFFER_BYTES_MAX
            && let Some(slot) = self.follows.next_ready()
        {
            given += self.read(slot, framing, out);
        }
        if out.len() < WRITE_BUFFER_BYTES_MAX {
            self.begin_catch_up(gateway);
        }
        self.memberships.refresh(gateway, self.user);
        self.waiting.tidy(Waiting::is_empty);
        self.memberships.tidy();
        given
    }

    /// Reads one feed.
    fn read(&mut self, slot: SlotKey, framing: &Framing, out: &mut BytesMut) -> u32 {
        let device = self.device();
        let Some(topic) = self.follows.topic(slot) else {
            return 0;
        };
        let mut outlet = self.outlet(topic, framing, out);
        let Some(follow) = self.follows.get_mut(slot) else {
            return 0;
        };
        let (read, given) = follow.read(device, |push| outlet.put(push));
        let noticed = outlet.noticed;
        match read {
            Read::UpToDate => {}
            // Behind those that are ready too: a feed that never ends does not starve them.
            Read::Full => self.follows.make_ready(slot),
            Read::Behind => self.fall_behind(slot),
        }
        self.notice(slot, noticed);
        given
    }

    fn outlet<'a>(&self, topic: Topic, framing: &'a Framing, out: &'a mut BytesMut) -> Outlet<'a> {
        Outlet {
            reader: self.user,
            device: self.device(),
            topic,
            framing,
            out,
            covered: self.memberships.covered(),
            noticed: Noticed::default(),
        }
    }

    /// Draws the conclusions from what was given of one feed.
    fn notice(&mut self, slot: SlotKey, noticed: Noticed) {
        if noticed.has_left || noticed.memberships_changed {
            self.memberships.outdate();
        }
        self.memberships.joined(noticed.joins);
        let Some(follow) = self.follows.get_mut(slot) else {
            return;
        };
        if noticed.has_left {
            follow.doubt = Doubt::Raised;
        }
        if slot == USER_SLOT {
            self.memberships.passed(follow.position.seq);
        }
    }

    /// True when a feed can be read on at once.
    pub(super) fn is_ready(&self) -> bool {
        self.follows.has_ready()
    }

    /// Waits until the session was woken, or something was read or loaded. Cancel safe.
    pub(super) async fn event(&mut self) -> Event {
        let Self {
            entered,
            follows,
            memberships,
            waiting,
            ..
        } = self;
        tokio::select! {
            () = entered.handle.woken() => Event::Woken,
            (slot, pushes) = waiting::caught_up(waiting) => Event::CaughtUp(slot, pushes),
            loaded = memberships.loaded(follows) => Event::Loaded(loaded),
        }
    }

    fn unfollow(&mut self, slot: SlotKey) {
        if let Some(waiting) = self.waiting.get_mut() {
            waiting.catching_up.take_if(|c| c.slot == slot);
        }
        self.follows.unfollow(slot);
    }

    /// The timeline of the session's own user.
    pub(super) const fn owner(&self) -> Owner {
        Owner::User(self.user)
    }
}

/// Signs in whom `token` proves. What the business said of it a moment ago is not asked for again, but
/// where it counts no more: its user may have been signed out and be welcome again.
async fn prove(gateway: &Gateway, claim: Claim, token: &str) -> Result<SignedIn> {
    let Gateway {
        authenticator,
        sign_ins,
        ..
    } = gateway;
    if let Some(vouched) = authenticator.vouched_before(&claim) {
        match sign_ins.sign_in(claim, Some(vouched)).await {
            Err(error) if error.is(Code::SignInAgain) => authenticator.outdated(&[claim.device]),
            signed => return signed,
        }
    }
    let vouched = authenticator.vouch(&claim, token).await?;
    sign_ins.sign_in(claim, vouched).await
}

impl Entered {
    fn new(device: DeviceId, registry: &Arc<Registry>) -> Self {
        let handle = Arc::new(Handle::new(device));
        registry.enter(&handle);
        Self {
            handle,
            registry: Arc::clone(registry),
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.registry.leave(&self.handle);
    }
}
