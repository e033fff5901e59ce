//! Which device is signed in where, so that every instance can say whether it is online and in
//! which room. It stands in Redis, one entry per device, and counts only while the key of its
//! instance lives, which the instance renews: the devices of one that was killed go offline by
//! themselves.
//!
//! Invariant: an entry is written only over one with a lower generation, and removed only by the
//! instance that wrote it, so a late instance cannot unregister a newer session. Writing is by
//! state: what is written is what the registry says then, however often it has changed before.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use fred::{
    clients::Client,
    interfaces::{HashesInterface, KeysInterface, LuaInterface},
    types::{Expiration, Value},
};
use futures_util::future::try_join_all;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::redis::{Connection, Dialer, Names, Outcome, Redis, ends_soon, is_refusal};
use crate::{
    delivery::registry::{Change, Registry},
    error::{Error, Result},
    id::{DeviceId, RoomId, UserId},
    limits::{
        BRIDGE_STOP_MAX, PRESENCE_CHUNK, PRESENCE_ENTRY_TTL, PRESENCE_LEASE,
        PRESENCE_REFRESH_RENEWALS, PRESENCE_RENEWAL, PRESENCE_WAIT,
    },
};

/// Writes or, where the user is 0, removes entries. Arguments: the instance, the time to live, and
/// generation, user and room of each key.
const WRITE: &str = "
local at = 3
for _, key in ipairs(KEYS) do
  local generation, user, room = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2]
  local known = redis.pcall('HMGET', key, 'generation', 'instance')
  local newest = not known.err and tonumber(known[1] or 0)
  if not newest then
    -- Somebody else's, who took the name; the others are written all the same.
  elseif user ~= '0' then
    if newest <= generation then
      redis.call('HSET', key, 'generation', ARGV[at], 'instance', ARGV[1], 'user', user, 'room', room)
      redis.call('PEXPIRE', key, ARGV[2])
    end
  elseif known[2] == ARGV[1] and newest <= generation then
    redis.call('DEL', key)
  end
  at = at + 3
end";

/// Says where devices are.
#[derive(Debug)]
pub struct Presence {
    registry: Arc<Registry>,
    shared: Option<Shared>,
}

/// What is known of other instances.
#[derive(Debug)]
struct Shared {
    names: Names,
    instance: Arc<AtomicU64>,
    /// The connection, while there is one.
    client: watch::Receiver<Option<Client>>,
    /// Up to which change of the registry everything is written.
    written: watch::Receiver<u64>,
}

/// The task that writes down where this instance's devices are.
pub struct Keeper {
    registry: Arc<Registry>,
    dialer: Dialer,
    names: Names,
    /// Another one whenever nobody knows which entries are still right: after a connection was lost,
    /// or so many changes were that they are not remembered.
    instance: Arc<AtomicU64>,
    /// The key of the name before, until all entries are written under the present one.
    former: Option<String>,
    is_sharded: bool,
    client: watch::Sender<Option<Client>>,
    written: watch::Sender<u64>,
    /// Devices whose entries are yet to be renewed, and how many at a time.
    refresh: Vec<DeviceId>,
    refresh_chunk: usize,
}

/// An entry.
struct Entry {
    user: UserId,
    room: Option<RoomId>,
}

impl Presence {
    /// Of an instance that is alone: what is not here is nowhere.
    #[must_use]
    pub const fn alone(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            shared: None,
        }
    }

    /// Of an instance of a cluster; `registry` must be [watched](Registry::watched).
    #[must_use]
    pub fn shared(redis: &Redis, registry: &Arc<Registry>) -> (Self, Keeper) {
        let (client, clients) = watch::channel(None);
        let (written, writes) = watch::channel(0);
        let instance = Arc::new(AtomicU64::new(redis.instance()));
        let presence = Self {
            registry: Arc::clone(registry),
            shared: Some(Shared {
                names: redis.names().clone(),
                instance: Arc::clone(&instance),
                client: clients,
                written: writes,
            }),
        };
        let keeper = Keeper {
            registry: Arc::clone(registry),
            dialer: redis.dialer("presence"),
            names: redis.names().clone(),
            instance,
            former: None,
            is_sharded: redis.is_sharded(),
            client,
            written,
            refresh: Vec::new(),
            refresh_chunk: 0,
        };
        (presence, keeper)
    }

    /// Whether a device is signed in anywhere. While Redis is away, whether it is here.
    pub async fn online(&self, device: DeviceId) -> bool {
        if self.registry.online(device).is_some() {
            return true;
        }
        match &self.shared {
            Some(shared) => matches!(shared.find(device).await, Ok(Some(_))),
            None => false,
        }
    }

    /// Whether `user` has subscribed to `room` on `device`, on whatever instance. A session here that
    /// was told to go counts until it has gone: what it sent before that is on its way.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when he is not here and Redis is away.
    pub async fn is_in_room(&self, user: UserId, device: DeviceId, room: RoomId) -> Result<bool> {
        Ok(self.registry.is_in_room(user, device, room)
            || self.room(user, device).await? == Some(room))
    }

    /// The room of the live session.
    async fn room(&self, user: UserId, device: DeviceId) -> Result<Option<RoomId>> {
        if self.registry.online(device) == Some(user) {
            return Ok(self.registry.room(device));
        }
        let Some(shared) = &self.shared else {
            return Ok(None);
        };
        let entry = shared.find(device).await?;
        Ok(entry
            .filter(|entry| entry.user == user)
            .and_then(|entry| entry.room))
    }

    /// Waits, but not for long, until other instances can know what the registry says now.
    pub async fn settled(&self) {
        // Without a connection nothing is written down soon, however long one waits.
        let shared = self.shared.as_ref();
        if let Some(shared) = shared.filter(|shared| shared.client.borrow().is_some()) {
            let version = self.registry.version();
            let mut written = shared.written.clone();
            let settling = written.wait_for(|written| *written >= version);
            // Then they know it later.
            let _ = timeout(PRESENCE_WAIT, settling).await;
        }
    }
}

impl Shared {
    /// The entry of a device at a living instance.
    async fn find(&self, device: DeviceId) -> Result<Option<Entry>> {
        let client = self.client.borrow().clone();
        let looking = async { self.look_up(&client?, device).await.ok() };
        let found = timeout(PRESENCE_WAIT, looking).await.ok().flatten();
        found.ok_or_else(|| Error::try_again("it is not known where the device is"))
    }

    async fn look_up(&self, client: &Client, device: DeviceId) -> Outcome<Option<Entry>> {
        let key = self.names.device(device);
        let fields = vec!["instance", "user", "room"];
        let known: (Option<String>, Option<i64>, Option<i64>) = client.hmget(key, fields).await?;
        let (Some(instance), Some(user), Some(room)) = known else {
            return Ok(None);
        };
        // What is here the registry knows better.
        if instance == id_of(&self.instance) {
            return Ok(None);
        }
        let lives: bool = client.exists(self.names.instance(&instance)).await?;
        Ok(lives.then_some(Entry {
            user: UserId(user),
            room: (room != 0).then_some(RoomId(room)),
        }))
    }
}

impl Keeper {
    /// Writes until `stop`; then it takes this instance's key away, and after that, if it does not
    /// take long, the entries that count no longer.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(mut connection) = self.dialer.dial(&stop).await {
            self.client.send_replace(Some(connection.client().clone()));
            let serving = self.serve(&mut connection, &stop);
            let ended = ends_soon(&stop, BRIDGE_STOP_MAX, serving).await;
            self.client.send_replace(None);
            match ended {
                None | Some(Ok(())) => return,
                Some(Err(error)) => {
                    // Redis may come back without the last of what was written, or removed, and
                    // with this instance's key. Under a new name all is written again, and what
                    // stands there under the former counts no longer.
                    self.former = Some(self.rename());
                    self.dialer.is_away(&error);
                }
            }
        }
    }

    async fn serve(
        &mut self,
        connection: &mut Connection,
        stop: &CancellationToken,
    ) -> Outcome<()> {
        let client = connection.client().clone();
        let mut renewal = Instant::now();
        while !stop.is_cancelled() {
            if self.registry.take_overflow() {
                // Its entries go with the key, now or when its lease is over.
                let former = self.rename();
                renewal = Instant::now();
                client.del::<(), _>(former).await?;
            }
            if renewal <= Instant::now() {
                refused(self.renew(&client).await)?;
                renewal = Instant::now() + PRESENCE_RENEWAL;
            }
            let written = refused(self.write_changes(&client).await)?;
            match written {
                Some(true) => continue,
                Some(false) => drop(refused(self.forget_former(&client).await)?),
                None => {}
            }
            tokio::select! {
                // What was refused is tried again with the next renewal.
                () = self.registry.changed(), if written.is_some() => {}
                () = sleep_until(renewal) => {}
                () = stop.cancelled() => {}
                error = connection.lost() => return Err(error),
            }
        }
        self.forget_former(&client).await?;
        client.del::<(), _>(self.own_key()).await?;
        while self.write_changes(&client).await? {}
        Ok(())
    }

    /// Says that this instance lives, and marks the entries that are to be written again: all where
    /// Redis had lost its key, some at a time where it had not.
    async fn renew(&mut self, client: &Client) -> Outcome<()> {
        let lease = Expiration::PX(PRESENCE_LEASE.as_millis() as i64);
        let before: Option<String> = client
            .set(self.own_key(), "1", Some(lease), None, true)
            .await?;
        if self.refresh.is_empty() || before.is_none() {
            let everybody = self.registry.everybody();
            self.refresh = everybody.into_iter().map(|(device, _)| device).collect();
            self.refresh_chunk = self.refresh.len().div_ceil(PRESENCE_REFRESH_RENEWALS);
        }
        let due = match before {
            None => 0,
            Some(_) => self.refresh.len().saturating_sub(self.refresh_chunk),
        };
        self.registry.touch(&self.refresh.split_off(due));
        Ok(())
    }

    /// Writes some of what has changed. Returns whether there was anything.
    async fn write_changes(&self, client: &Client) -> Outcome<bool> {
        let (changes, version) = self.registry.take_changes(PRESENCE_CHUNK);
        if !changes.is_empty()
            && let Err(error) = self.write(client, &changes).await
        {
            self.registry.give_back(&changes);
            return Err(error);
        }
        if let Some(version) = version {
            self.written.send_if_modified(|written| {
                let is_new = *written != version;
                *written = version;
                is_new
            });
        }
        Ok(!changes.is_empty())
    }

    async fn write(&self, client: &Client, changes: &[Change]) -> Outcome<()> {
        // Each key of a Redis Cluster may be on another node.
        let chunk = if self.is_sharded { 1 } else { PRESENCE_CHUNK };
        let writes = changes.chunks(chunk).map(|changes| {
            let keys: Vec<String> = changes
                .iter()
                .map(|change| self.names.device(change.device))
                .collect();
            let mut args: Vec<Value> = vec![
                id_of(&self.instance).into(),
                (PRESENCE_ENTRY_TTL.as_millis() as i64).into(),
            ];
            for change in changes {
                args.extend(columns(change).map(Value::Integer));
            }
            client.eval::<(), _, _, _>(WRITE, keys, args)
        });
        try_join_all(writes).await.map(drop)
    }

    /// Takes another name. Returns the key of the one before.
    fn rename(&self) -> String {
        let former = self.own_key();
        self.instance.store(rand::random(), Ordering::Release);
        former
    }

    /// Takes the key of the name before away, if there is one. Where that is missed, it ends by
    /// itself.
    async fn forget_former(&mut self, client: &Client) -> Outcome<()> {
        match self.former.take() {
            Some(former) => client.del(former).await,
            None => Ok(()),
        }
    }

    fn own_key(&self) -> String {
        self.names.instance(&id_of(&self.instance))
    }
}

/// Reports what Redis answered with an error, which another connection would not change.
fn refused<T>(outcome: Outcome<T>) -> Outcome<Option<T>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(error) if is_refusal(&error) => {
            tracing::warn!(%error, "Redis refused to take down where devices are");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Generation, user and room, as they are written; user 0 for a device that is not here.
fn columns(change: &Change) -> [i64; 3] {
    match change.now {
        Some(now) => [
            now.generation,
            now.user.get(),
            now.room.map_or(0, RoomId::get),
        ],
        None => [change.left, 0, 0],
    }
}

/// How an instance is called in entries and in its key.
fn id_of(instance: &AtomicU64) -> String {
    format!("{:016x}", instance.load(Ordering::Acquire))
}

#[cfg(test)]
mod tests;
