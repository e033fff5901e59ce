//! What a connection holds once it has signed in: its place in the registry and the feeds it
//! follows, with its position in each. Dropping it gives all of that back.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::{FutureExt, future::BoxFuture};
use slab::Slab;

use super::{Gateway, frame::Framing};
use crate::{
    auth,
    delivery::{
        feed::{FollowerKey, Position, Read},
        handle::{Credential, Eviction, Handle},
        registry::Registry,
        router::Lease,
        topic::Topic,
    },
    error::{Error, Result},
    id::{DeviceId, Owner, Seq, UserId},
    limits::WRITE_BUFFER_BYTES_MAX,
    timeline::{ack::Key, pages::Pushes},
};

/// A signed-in session's hold on the rest of the server.
pub(super) struct Link {
    pub(super) user: UserId,
    /// The head of its user's timeline when it signed in: where its pushes begin.
    pub(super) signed_in_at: Seq,
    /// What the device had acknowledged of its user's timeline by then.
    pub(super) acked: Seq,
    entered: Entered,
    follows: Slab<Follow>,
    /// The slots of feeds that have something which was not written yet.
    ready: VecDeque<u32>,
    /// The timeline that is being read because its feed has left this session behind.
    catching_up: Option<CatchingUp>,
}

/// What happens to a session without the device's doing.
pub(super) enum Event {
    /// A feed has something new, or the session was evicted.
    Woken,
    /// The timeline of this slot's feed was read.
    CaughtUp(u32, Pushes),
}

struct CatchingUp {
    slot: u32,
    read: BoxFuture<'static, Pushes>,
}

/// A place in the registry.
struct Entered {
    handle: Arc<Handle>,
    registry: Arc<Registry>,
}

/// A followed feed.
struct Follow {
    lease: Lease,
    key: FollowerKey,
    position: Position,
    /// Pushes wait for a sync.
    held: bool,
}

/// The slot of the user's own feed.
const USER_SLOT: u32 = 0;
/// How long a session waits before it tries again to read what it has missed.
const CATCH_UP_PAUSE: Duration = Duration::from_secs(1);

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
        let token_hash = auth::token::hash(token).ok_or_else(Error::sign_in_again)?;
        if user.get() <= 0 || device.get() <= 0 {
            return Err(Error::sign_in_again());
        }
        if gateway.draining.is_cancelled() {
            return Err(Error::try_again("this instance is shutting down"));
        }
        let entered = Entered::new(device, &gateway.registry);
        let lease = gateway.router.lease(Topic::User(user)).await?;
        // Memory before the database: an ack that is written in between is seen twice, not never.
        let unwritten = gateway.acks.unwritten(&Key {
            user,
            owner: Owner::User(user),
            device,
        });
        let signed = gateway.sign_ins.sign_in(user, device, token_hash).await?;
        lease.open(signed.head);
        let follow = Follow::new(lease, &entered.handle, USER_SLOT);
        let credential = Credential {
            user,
            generation: signed.generation,
            token_hash,
            expires_at: signed.expires_at,
        };
        gateway.registry.sign_in(&entered.handle, credential);
        if gateway.draining.is_cancelled() {
            entered.handle.evict(Eviction::Draining);
        }
        let signed_in_at = follow.position.seq;
        let mut follows = Slab::with_capacity(1);
        follows.insert(follow);
        Ok(Box::new(Self {
            user,
            signed_in_at,
            acked: signed.acked.max(unwritten),
            entered,
            follows,
            ready: VecDeque::new(),
            catching_up: None,
        }))
    }

    pub(super) fn device(&self) -> DeviceId {
        self.entered.handle.device()
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.entered.handle
    }

    /// The last position of the user's timeline that this instance knows of: its feed's head, or
    /// beyond it what this session was given.
    pub(super) fn head(&self) -> Seq {
        let follow = &self.follows[USER_SLOT as usize];
        follow
            .position
            .seq
            .max(follow.lease.head().unwrap_or_default())
    }

    /// Takes over what the feeds have reported.
    pub(super) fn take_ready(&mut self) {
        self.ready.extend(self.entered.handle.take_ready());
    }

    /// Pushes of the user's timeline wait from here on.
    pub(super) fn hold(&mut self) {
        self.follows[USER_SLOT as usize].held = true;
    }

    /// The device was given its user's timeline up to `end` by a sync; pushes go on waiting.
    pub(super) fn synced(&mut self, end: Seq) {
        self.follows[USER_SLOT as usize].position.seq = end;
    }

    /// Pushes of the user's timeline go on from where the device is.
    pub(super) fn release(&mut self) {
        let follow = &mut self.follows[USER_SLOT as usize];
        if std::mem::take(&mut follow.held) {
            self.ready.push_back(USER_SLOT);
        }
    }

    /// Writes what the feeds have into `out`, until nothing is left or `out` is full. Returns how
    /// many messages it wrote.
    pub(super) fn pull(&mut self, gateway: &Gateway, framing: &Framing, out: &mut BytesMut) -> u32 {
        let device = self.device();
        let mut given = 0;
        while out.len() < WRITE_BUFFER_BYTES_MAX
            && let Some(slot) = self.ready.pop_front()
        {
            let Some(follow) = self.follows.get_mut(slot as usize) else {
                continue;
            };
            if follow.held {
                continue;
            }
            let (read, count) =
                follow
                    .lease
                    .read(follow.key, &mut follow.position, device, |body| {
                        framing.put(body, out);
                        out.len() < WRITE_BUFFER_BYTES_MAX
                    });
            given += count;
            match read {
                Read::UpToDate => {}
                Read::Full => self.ready.push_front(slot),
                Read::Behind if self.catching_up.is_none() => self.begin_catch_up(gateway, slot),
                Read::Behind => {
                    // One catch-up at a time; its end brings this one on.
                    self.ready.push_back(slot);
                    break;
                }
            }
        }
        if self.ready.is_empty() {
            self.ready = VecDeque::new();
        }
        given
    }

    /// True when a feed can be read on at once.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty() && self.catching_up.is_none()
    }

    fn begin_catch_up(&mut self, gateway: &Gateway, slot: u32) {
        let follow = &self.follows[slot as usize];
        let Some(owner) = follow.lease.topic().owner() else {
            return;
        };
        let pages = Arc::clone(&gateway.pages);
        let after = follow.position.seq;
        let read = async move {
            match pages.catch_up(owner, after).await {
                Ok(pushes) if !pushes.is_empty() => pushes,
                result => {
                    if let Err(error) = result {
                        tracing::warn!(%error, "a catch-up must wait");
                    }
                    tokio::time::sleep(CATCH_UP_PAUSE).await;
                    Pushes::default()
                }
            }
        };
        self.catching_up = Some(CatchingUp {
            slot,
            read: read.boxed(),
        });
    }

    /// Waits until the session was woken or a catch-up has ended. Cancel safe.
    pub(super) async fn event(&mut self) -> Event {
        let Self {
            entered,
            catching_up,
            ..
        } = self;
        let caught_up = async {
            match catching_up {
                Some(catching_up) => ((&mut catching_up.read).await, catching_up.slot),
                None => std::future::pending().await,
            }
        };
        let (pushes, slot) = tokio::select! {
            () = entered.handle.woken() => return Event::Woken,
            caught_up = caught_up => caught_up,
        };
        self.catching_up = None;
        Event::CaughtUp(slot, pushes)
    }

    /// Writes what a catch-up has brought. Returns how many messages it wrote.
    pub(super) fn take_caught_up(
        &mut self,
        slot: u32,
        pushes: &Pushes,
        framing: &Framing,
        out: &mut BytesMut,
    ) -> u32 {
        let device = self.device();
        let Some(follow) = self.follows.get_mut(slot as usize) else {
            return 0;
        };
        if follow.held {
            return 0;
        }
        let mut given = 0;
        for push in pushes.iter() {
            if push.seq != follow.position.seq.next() {
                continue;
            }
            follow.position.seq = push.seq;
            if push.origin != device {
                framing.put(&push.body, out);
                given += 1;
            }
        }
        self.ready.push_front(slot);
        given
    }

    /// The timeline of the session's own user.
    pub(super) const fn owner(&self) -> Owner {
        Owner::User(self.user)
    }
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

impl Follow {
    fn new(lease: Lease, handle: &Arc<Handle>, slot: u32) -> Self {
        let (key, position) = lease.follow(Arc::clone(handle), slot);
        Self {
            lease,
            key,
            position,
            held: false,
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.lease.unfollow(self.key, self.position);
    }
}
