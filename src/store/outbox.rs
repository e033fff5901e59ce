//! The outbox: events that the business server is still to be told. A row is written in the
//! transaction of its event, and deleted once the event was taken. It refers to what it tells of; the
//! body is made when it is delivered.
//!
//! An event belongs to an owner, and those of one owner are told in the order of their ids.

use std::{collections::HashSet, sync::Arc};

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Query};
use tokio::sync::Notify;

use super::{
    Conn, Outcome, Store,
    entity::{message, outbox},
    ids::padded,
    undelivered::Check,
};
use crate::{clock::Clock, id::MessageId};

pub use super::entity::outbox::Model as Row;

/// Rows of one statement: far below what any engine takes as parameters.
const STATEMENT_ROWS: usize = 500;

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum Kind {
    /// A message was stored.
    MessageSent = 1,
    /// No device of a receiver has acknowledged a message in time.
    MessageUndelivered = 2,
    /// A user's first device has come online.
    UserOnline = 3,
    /// A user's last device has gone offline.
    UserOffline = 4,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::MessageSent,
        Self::MessageUndelivered,
        Self::UserOnline,
        Self::UserOffline,
    ];

    /// As the contract and the configuration name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessageSent => "message.sent",
            Self::MessageUndelivered => "message.undelivered",
            Self::UserOnline => "user.online",
            Self::UserOffline => "user.offline",
        }
    }

    /// As it is stored.
    #[must_use]
    pub const fn column(self) -> i16 {
        self as i16
    }

    /// What is stored as `column`.
    #[must_use]
    pub fn from_column(column: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.column() == column)
    }
}

/// An event that is about to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct New {
    /// What it tells.
    pub kind: Kind,
    /// With whose other events it keeps its order.
    pub owner: i64,
    /// The message it is about, or 0.
    pub message: MessageId,
    /// The device it is about, or 0.
    pub device: i64,
    /// When it came to be, in unix milliseconds.
    pub created_at: i64,
}

/// What is written beside a message, if it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfMessage {
    /// With whose other events it keeps its order.
    pub owner: i64,
    /// When it is stored, in unix milliseconds.
    pub created_at: i64,
    /// Whether the message itself is told of.
    pub is_told: bool,
    /// When to see whether it has reached its receivers.
    pub check_at: Option<i64>,
}

impl OfMessage {
    /// That a message was stored, if that is told.
    #[must_use]
    pub fn event(&self, message: MessageId) -> Option<New> {
        self.is_told.then_some(New {
            kind: Kind::MessageSent,
            owner: self.owner,
            message,
            device: 0,
            created_at: self.created_at,
        })
    }

    /// The check that is due for a message, if there is one.
    #[must_use]
    pub fn check(&self, message: MessageId) -> Option<Check> {
        Some(Check {
            due_at: self.check_at?,
            message_id: message.get(),
        })
    }
}

/// Which events are told, and who waits for new ones. Cloning it is cheap; by default nothing is told.
#[derive(Clone, Debug, Default)]
pub struct Outbox(Option<Arc<Wanted>>);

#[derive(Debug)]
struct Wanted {
    kinds: HashSet<Kind>,
    undelivered_after_ms: i64,
    clock: Arc<dyn Clock>,
    written: Notify,
}

impl Outbox {
    /// An outbox for events of these kinds.
    #[must_use]
    pub fn telling(
        kinds: impl IntoIterator<Item = Kind>,
        undelivered_after_ms: i64,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let kinds: HashSet<Kind> = kinds.into_iter().collect();
        let wanted = Wanted {
            kinds,
            undelivered_after_ms,
            clock,
            written: Notify::new(),
        };
        Self((!wanted.kinds.is_empty()).then(|| Arc::new(wanted)))
    }

    /// Whether events of a kind are told.
    #[must_use]
    pub fn tells(&self, kind: Kind) -> bool {
        let wanted = self.0.as_ref();
        wanted.is_some_and(|wanted| wanted.kinds.contains(&kind))
    }

    /// What is written beside a message of this owner's, if anything. `may_notify` says whether a
    /// person would be notified of it.
    #[must_use]
    pub fn of_message(&self, owner: i64, may_notify: impl FnOnce() -> bool) -> Option<OfMessage> {
        let wanted = self.0.as_ref()?;
        let created_at = wanted.clock.now_ms();
        let is_told = wanted.kinds.contains(&Kind::MessageSent);
        let is_checked = wanted.kinds.contains(&Kind::MessageUndelivered) && may_notify();
        (is_told || is_checked).then(|| OfMessage {
            owner,
            created_at,
            is_told,
            check_at: is_checked.then(|| created_at.saturating_add(wanted.undelivered_after_ms)),
        })
    }

    /// Tells whoever delivers that a transaction with events was committed.
    pub fn written(&self) {
        if let Some(wanted) = &self.0 {
            wanted.written.notify_one();
        }
    }

    /// Completes when this instance has written something since it was last asked; never where
    /// nothing is told. Cancel safe.
    pub async fn filled(&self) {
        match &self.0 {
            Some(wanted) => wanted.written.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// Writes events, in their order.
///
/// # Errors
/// What the database answers.
pub(crate) async fn insert(conn: &impl Conn, events: &[New]) -> Outcome<()> {
    use outbox::Column as C;

    for chunk in events.chunks(STATEMENT_ROWS) {
        let mut insert = Query::insert();
        insert.into_table(outbox::Entity).columns([
            C::Kind,
            C::OwnerId,
            C::MessageId,
            C::DeviceId,
            C::CreatedAt,
        ]);
        for event in chunk {
            insert.values_panic([
                event.kind.column().into(),
                event.owner.into(),
                event.message.get().into(),
                event.device.into(),
                event.created_at.into(),
            ]);
        }
        conn.execute(&insert).await?;
    }
    Ok(())
}

/// Events after `after`, ascending, at most `max`: of everybody, or of one owner.
///
/// # Errors
/// What the database answers.
pub(crate) async fn page(
    conn: &impl Conn,
    owner: Option<i64>,
    after: i64,
    max: u64,
) -> Outcome<Vec<Row>> {
    let mut select = outbox::Entity::find().filter(outbox::Column::Id.gt(after));
    if let Some(owner) = owner {
        select = select.filter(outbox::Column::OwnerId.eq(owner));
    }
    let select = select.order_by_asc(outbox::Column::Id).limit(max);
    select.all(conn).await
}

/// Deletes events that were taken, or given up.
///
/// # Errors
/// What the database answers.
pub(crate) async fn delete(store: &Store, ids: &[i64]) -> Outcome<()> {
    let tx = store.begin_raw().await?;
    for ids in ids.chunks(STATEMENT_ROWS) {
        outbox::Entity::delete_many()
            .filter(outbox::Column::Id.is_in(padded(ids.iter().copied())))
            .exec(tx.conn())
            .await?;
    }
    tx.commit_raw().await
}

/// A message, as an event tells it.
///
/// # Errors
/// What the database answers.
pub(crate) async fn message(conn: &impl Conn, id: MessageId) -> Outcome<Option<message::Model>> {
    message::Entity::find_by_id(id.get()).one(conn).await
}
