//! Which devices are online in the whole cluster, written down where somebody is told when a user's
//! first device comes online and his last one goes offline.
//!
//! Invariant: a user's rows change only under the lock of his timeline's head, so that of two devices
//! that come or go at the same time one is the first, and one the last. A row is gone before the row
//! of its instance is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::{
    ColumnTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict, Query},
};

use super::{
    Conn, Outcome, Store,
    entity::{instance, online_device},
    ids::padded,
    incoming,
    outbox::{self, Kind, New, Outbox},
    timeline,
};
use crate::id::{DeviceId, MessageId, Owner, UserId};

pub use super::entity::{instance::Model as Instance, online_device::Model as Row};

/// Rows of one statement: far below what any engine takes as parameters.
const STATEMENT_ROWS: usize = 500;

/// A session of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session {
    /// Its user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// The device's sign-in counter; the higher one wins.
    pub generation: i64,
}

/// Writes down who comes and goes at this instance. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Attendance {
    instance: i64,
    outbox: Outbox,
}

/// What becomes of the rows of some users.
#[derive(Debug, Default)]
struct Changes {
    /// How many devices each user has online.
    before: BTreeMap<UserId, usize>,
    after: BTreeMap<UserId, usize>,
    /// The device that an event names.
    device: BTreeMap<UserId, DeviceId>,
}

impl Attendance {
    /// The attendance at an instance, which bears a random number; `None` where nobody is told.
    #[must_use]
    pub fn at(instance: i64, outbox: &Outbox) -> Option<Self> {
        let is_told = outbox.tells(Kind::UserOnline) || outbox.tells(Kind::UserOffline);
        is_told.then(|| Self {
            instance,
            outbox: outbox.clone(),
        })
    }

    /// The number of the instance.
    #[must_use]
    pub const fn instance(&self) -> i64 {
        self.instance
    }

    /// Tells whoever delivers that a transaction was committed.
    pub fn written(&self) {
        self.outbox.written();
    }

    /// Writes sessions down that begin, within the transaction that makes them.
    ///
    /// # Errors
    /// What the database answers.
    pub(crate) async fn came(
        &self,
        conn: &impl Conn,
        sessions: impl Iterator<Item = Session>,
        now_ms: i64,
    ) -> Outcome<()> {
        let mut newest: BTreeMap<DeviceId, Session> = BTreeMap::new();
        for session in sessions {
            let known = newest.entry(session.device).or_insert(session);
            if known.generation <= session.generation {
                *known = session;
            }
        }
        let devices: Vec<DeviceId> = newest.keys().copied().collect();
        let mut users: BTreeSet<UserId> = newest.values().map(|session| session.user).collect();
        // Whose devices they were before.
        let former = of_devices(conn, &devices).await?;
        users.extend(former.iter().map(|row| UserId(row.user_id)));
        let stored = lock(conn, &users).await?;
        let mut changes = Changes::of(&stored);
        let stored: HashMap<DeviceId, &Row> = stored
            .iter()
            .map(|row| (DeviceId(row.device_id), row))
            .collect();
        newest.retain(|device, session| {
            let row = stored.get(device);
            row.is_none_or(|row| row.generation < session.generation)
        });
        for session in newest.values() {
            if let Some(row) = stored.get(&session.device) {
                changes.leaves(UserId(row.user_id), session.device);
            }
            changes.comes(session.user, session.device);
        }
        self.upsert(conn, newest.values()).await?;
        self.tell(conn, &changes, now_ms).await
    }

    /// Strikes sessions off that have ended, of this instance or of one that died; what a newer
    /// session of a device has written stays.
    ///
    /// # Errors
    /// What the database answers.
    pub(crate) async fn left(
        &self,
        store: &Store,
        sessions: &[Session],
        now_ms: i64,
    ) -> Outcome<()> {
        let mut tx = store.begin_raw().await?;
        tx.wrote(2 * sessions.len());
        let users = sessions.iter().map(|session| session.user).collect();
        let stored = lock(tx.conn(), &users).await?;
        let mut changes = Changes::of(&stored);
        let ended: HashMap<DeviceId, i64> = sessions
            .iter()
            .map(|session| (session.device, session.generation))
            .collect();
        let has_ended = |row: &&Row| {
            let generation = ended.get(&DeviceId(row.device_id));
            generation.is_some_and(|generation| row.generation <= *generation)
        };
        let gone: Vec<&Row> = stored.iter().filter(has_ended).collect();
        for row in &gone {
            changes.leaves(UserId(row.user_id), DeviceId(row.device_id));
        }
        for gone in gone.chunks(STATEMENT_ROWS) {
            let ids = padded(gone.iter().map(|row| row.device_id));
            online_device::Entity::delete_many()
                .filter(online_device::Column::DeviceId.is_in(ids))
                .exec(tx.conn())
                .await?;
        }
        self.tell(tx.conn(), &changes, now_ms).await?;
        tx.commit_raw().await?;
        self.written();
        Ok(())
    }

    async fn upsert<'a>(
        &self,
        conn: &impl Conn,
        sessions: impl Iterator<Item = &'a Session>,
    ) -> Outcome<()> {
        use online_device::Column as C;

        let sessions: Vec<&Session> = sessions.collect();
        for chunk in sessions.chunks(STATEMENT_ROWS) {
            let mut upsert = Query::insert();
            upsert.into_table(online_device::Entity).columns([
                C::DeviceId,
                C::UserId,
                C::InstanceId,
                C::Generation,
            ]);
            for session in chunk {
                upsert.values_panic([
                    session.device.get().into(),
                    session.user.get().into(),
                    self.instance.into(),
                    session.generation.into(),
                ]);
            }
            upsert.on_conflict(
                OnConflict::column(C::DeviceId)
                    .values(
                        [C::UserId, C::InstanceId, C::Generation].map(|c| (c, incoming(conn, c))),
                    )
                    .to_owned(),
            );
            conn.execute(&upsert).await?;
        }
        Ok(())
    }

    /// Writes the events that follow from changes.
    async fn tell(&self, conn: &impl Conn, changes: &Changes, now_ms: i64) -> Outcome<()> {
        let events = changes
            .events()
            .filter(|(kind, ..)| self.outbox.tells(*kind));
        let events = events.map(|(kind, user, device)| New {
            kind,
            owner: user.get(),
            message: MessageId(0),
            device: device.get(),
            created_at: now_ms,
        });
        outbox::insert(conn, &events.collect::<Vec<_>>()).await
    }

    /// Says that the instance lives. Returns whether it was listed before: if not, it was taken for
    /// dead, and its devices were struck off.
    ///
    /// # Errors
    /// What the database answers.
    pub(crate) async fn beat(&self, store: &Store) -> Outcome<bool> {
        let tx = store.begin_raw().await?;
        let beaten = instance::Entity::update_many()
            .col_expr(
                instance::Column::Beat,
                Expr::col(instance::Column::Beat).add(1),
            )
            .filter(instance::Column::Id.eq(self.instance))
            .exec(tx.conn())
            .await?;
        let was_listed = beaten.rows_affected == 1;
        if !was_listed {
            let row = instance::ActiveModel::from(Instance {
                id: self.instance,
                beat: 0,
            });
            instance::Entity::insert(row)
                .exec_without_returning(tx.conn())
                .await?;
        }
        tx.commit_raw().await?;
        Ok(was_listed)
    }
}

impl Changes {
    fn of(stored: &[Row]) -> Self {
        let mut changes = Self::default();
        for row in stored {
            *changes.before.entry(UserId(row.user_id)).or_default() += 1;
        }
        changes.after = changes.before.clone();
        changes
    }

    fn comes(&mut self, user: UserId, device: DeviceId) {
        *self.after.entry(user).or_default() += 1;
        self.device.entry(user).or_insert(device);
    }

    fn leaves(&mut self, user: UserId, device: DeviceId) {
        let left = self.after.entry(user).or_default();
        *left = left.saturating_sub(1);
        self.device.insert(user, device);
    }

    /// Who has come online with his first device, and gone offline with his last one.
    fn events(&self) -> impl Iterator<Item = (Kind, UserId, DeviceId)> {
        let changed = self.device.iter();
        changed.filter_map(|(user, device)| {
            let count = |counts: &BTreeMap<UserId, usize>| counts.get(user).copied();
            let counts = (count(&self.before), count(&self.after));
            let kind = match (counts.0.unwrap_or(0), counts.1.unwrap_or(0)) {
                (0, 1..) => Kind::UserOnline,
                (1.., 0) => Kind::UserOffline,
                _ => return None,
            };
            Some((kind, *user, *device))
        })
    }
}

/// Locks the heads of users to the end of the transaction; their rows.
async fn lock(conn: &impl Conn, users: &BTreeSet<UserId>) -> Outcome<Vec<Row>> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    timeline::lock_heads(conn, users.iter().copied().map(Owner::User)).await?;
    let mut rows = Vec::new();
    let users: Vec<i64> = users.iter().map(|user| user.get()).collect();
    for users in users.chunks(STATEMENT_ROWS) {
        let some = online_device::Entity::find()
            .filter(online_device::Column::UserId.is_in(padded(users.iter().copied())))
            .all(conn)
            .await?;
        rows.extend(some);
    }
    Ok(rows)
}

/// The rows of devices.
///
/// # Errors
/// What the database answers.
pub(crate) async fn of_devices(conn: &impl Conn, devices: &[DeviceId]) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for devices in devices.chunks(STATEMENT_ROWS) {
        let ids = padded(devices.iter().map(|device| device.get()));
        let some = online_device::Entity::find()
            .filter(online_device::Column::DeviceId.is_in(ids))
            .all(conn)
            .await?;
        rows.extend(some);
    }
    Ok(rows)
}

/// Devices of an instance after `after`, ascending, at most `max`.
///
/// # Errors
/// What the database answers.
pub(crate) async fn of_instance(
    conn: &impl Conn,
    instance: i64,
    after: DeviceId,
    max: u64,
) -> Outcome<Vec<Row>> {
    let rows = online_device::Entity::find()
        .filter(online_device::Column::InstanceId.eq(instance))
        .filter(online_device::Column::DeviceId.gt(after.get()))
        .order_by_asc(online_device::Column::DeviceId)
        .limit(max);
    rows.all(conn).await
}

/// The instances that are listed.
///
/// # Errors
/// What the database answers.
pub(crate) async fn instances(conn: &impl Conn) -> Outcome<Vec<Instance>> {
    instance::Entity::find().all(conn).await
}

/// Instances that have devices and may not be listed: one that was taken for dead wrote them down, and
/// died. It reads the whole table.
///
/// # Errors
/// What the database answers.
pub(crate) async fn with_devices(conn: &impl Conn) -> Outcome<Vec<i64>> {
    let ids = online_device::Entity::find()
        .select_only()
        .column(online_device::Column::InstanceId)
        .distinct()
        .into_tuple();
    ids.all(conn).await
}

/// Strikes an instance off that has no devices any more and has not counted on from `beat`.
///
/// # Errors
/// What the database answers.
pub(crate) async fn forget(store: &Store, instance: Instance) -> Outcome<()> {
    let tx = store.begin_raw().await?;
    instance::Entity::delete_many()
        .filter(instance::Column::Id.eq(instance.id))
        .filter(instance::Column::Beat.eq(instance.beat))
        .exec(tx.conn())
        .await?;
    tx.commit_raw().await
}

#[cfg(test)]
#[path = "online_tests.rs"]
mod tests;
