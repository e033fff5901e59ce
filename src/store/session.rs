//! What signing in on the long connection reads and writes: tokens and the devices' generations.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait, EntityTrait, ExprTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, Query},
};

use super::{
    Conn, Outcome,
    entity::{auth_token, device},
    ids::padded,
};
use crate::id::DeviceId;

pub use super::entity::auth_token::Model as TokenRow;

/// The tokens of devices.
///
/// # Errors
/// What the database answers.
pub(crate) async fn tokens(
    conn: &impl Conn,
    devices: &[DeviceId],
) -> Outcome<HashMap<DeviceId, TokenRow>> {
    let rows = auth_token::Entity::find()
        .filter(auth_token::Column::DeviceId.is_in(padded(devices.iter().map(|d| d.get()))))
        .all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (DeviceId(row.device_id), row))
        .collect())
}

/// Raises the generation of each device by `step` and returns the new ones.
///
/// # Errors
/// What the database answers.
pub(crate) async fn raise_generations(
    conn: &impl Conn,
    devices: &[DeviceId],
    step: i64,
    now_ms: i64,
) -> Outcome<HashMap<DeviceId, i64>> {
    let ids = padded(devices.iter().map(|d| d.get()));
    let mut update = Query::update();
    update
        .table(device::Entity)
        .value(
            device::Column::SessionGen,
            Expr::col(device::Column::SessionGen).add(step),
        )
        .value(device::Column::UpdatedAt, now_ms)
        .and_where(device::Column::Id.is_in(ids));
    conn.execute(&update).await?;
    generations(conn, devices).await
}

/// The generation of each device.
///
/// # Errors
/// What the database answers.
pub(crate) async fn generations(
    conn: &impl Conn,
    devices: &[DeviceId],
) -> Outcome<HashMap<DeviceId, i64>> {
    let rows: Vec<(i64, i64)> = device::Entity::find()
        .select_only()
        .columns([device::Column::Id, device::Column::SessionGen])
        .filter(device::Column::Id.is_in(padded(devices.iter().map(|d| d.get()))))
        .into_tuple()
        .all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(id, generation)| (DeviceId(id), generation))
        .collect())
}
