//! How far devices have acknowledged timelines.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QuerySelect,
    sea_query::{CaseStatement, Expr, OnConflict, Query},
};

use super::{Conn, Outcome, Store, entity::device_ack, ids::padded, incoming};
use crate::{
    error::Result,
    id::{DeviceId, Owner, Seq, UserId},
};

/// One device's ack of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Whose device.
    pub user: UserId,
    /// Which timeline.
    pub owner: Owner,
    /// Which device.
    pub device: DeviceId,
}

/// Raises acks; none is lowered. `acks` must be sorted by key, so that two transactions lock in
/// the same order.
///
/// # Errors
/// What the database answers.
pub(crate) async fn raise(store: &Store, acks: &[(Key, Seq)]) -> Outcome<()> {
    use device_ack::Column as C;

    let tx = store.begin_raw().await?;
    let mut upsert = Query::insert();
    upsert.into_table(device_ack::Entity).columns([
        C::UserId,
        C::OwnerType,
        C::OwnerId,
        C::DeviceId,
        C::Seq,
    ]);
    for (key, seq) in acks {
        upsert.values_panic([
            key.user.get().into(),
            key.owner.kind().into(),
            key.owner.id().into(),
            key.device.get().into(),
            seq.get().into(),
        ]);
    }
    let stored = || Expr::col((device_ack::Entity, C::Seq));
    let new = || incoming(tx.conn(), C::Seq);
    let higher = CaseStatement::new()
        .case(stored().lt(new()), new())
        .finally(stored());
    upsert.on_conflict(
        OnConflict::columns([C::UserId, C::OwnerType, C::OwnerId, C::DeviceId])
            .value(C::Seq, higher)
            .to_owned(),
    );
    tx.conn().execute(&upsert).await?;
    tx.commit_raw().await
}

/// The highest ack of one timeline over all devices of a user.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn highest(conn: &impl Conn, user: UserId, owner: Owner) -> Result<Seq> {
    let highest: Option<Option<i64>> = device_ack::Entity::find()
        .select_only()
        .column_as(device_ack::Column::Seq.max(), "seq")
        .filter(device_ack::Column::UserId.eq(user.get()))
        .filter(device_ack::Column::OwnerType.eq(owner.kind()))
        .filter(device_ack::Column::OwnerId.eq(owner.id()))
        .into_tuple()
        .one(conn)
        .await?;
    Ok(Seq(highest.flatten().unwrap_or(0)))
}

/// The acks that devices have of their own user's timeline.
///
/// # Errors
/// What the database answers.
pub(crate) async fn own(
    conn: &impl Conn,
    sessions: &[(UserId, DeviceId)],
) -> Outcome<HashMap<(UserId, DeviceId), Seq>> {
    let users = padded(sessions.iter().map(|(user, _)| user.get()));
    let devices = padded(sessions.iter().map(|(_, device)| device.get()));
    let own = Expr::col(device_ack::Column::OwnerId).equals(device_ack::Column::UserId);
    let rows = device_ack::Entity::find()
        .filter(device_ack::Column::UserId.is_in(users))
        .filter(device_ack::Column::OwnerType.eq(Owner::User(UserId(0)).kind()))
        .filter(own)
        .filter(device_ack::Column::DeviceId.is_in(devices))
        .all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| ((UserId(row.user_id), DeviceId(row.device_id)), Seq(row.seq)))
        .collect())
}
