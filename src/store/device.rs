//! Queries on installations of clients.

use sea_orm::{
    ActiveModelTrait, ActiveValue::NotSet, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter,
    QuerySelect, sea_query::Expr,
};

use super::{
    Conn,
    entity::device::{Column, Entity},
};
use crate::{
    error::Result,
    id::{DeviceId, UserId},
};

pub use super::entity::device::Model as Device;

/// Stores a new device and returns its id; the id in `device` is not used.
///
/// # Errors
/// When the database does not answer; so do all functions here.
pub async fn insert(conn: &impl Conn, device: Device) -> Result<DeviceId> {
    let mut row = device.into_active_model().reset_all();
    row.id = NotSet;
    let inserted = Entity::insert(row).exec(conn).await?;
    Ok(DeviceId(inserted.last_insert_id))
}

/// A device.
///
/// # Errors
/// See [`insert`].
pub async fn by_id(conn: &impl Conn, device: DeviceId) -> Result<Option<Device>> {
    Ok(Entity::find_by_id(device.get()).one(conn).await?)
}

/// Makes `user` the one who signed in last on a device, at `now_ms`; false when there is no such
/// device.
///
/// # Errors
/// See [`insert`].
pub async fn assign(conn: &impl Conn, device: DeviceId, user: UserId, now_ms: i64) -> Result<bool> {
    let updated = Entity::update_many()
        .col_expr(Column::UserId, Expr::value(user.get()))
        .col_expr(Column::UpdatedAt, Expr::value(now_ms))
        .filter(Column::Id.eq(device.get()))
        .exec(conn)
        .await?;
    Ok(updated.rows_affected == 1)
}

/// When each of some devices was last used, in unix milliseconds.
///
/// # Errors
/// See [`insert`].
pub async fn last_used(conn: &impl Conn, devices: &[DeviceId]) -> Result<Vec<(DeviceId, i64)>> {
    let rows: Vec<(i64, i64)> = Entity::find()
        .select_only()
        .columns([Column::Id, Column::UpdatedAt])
        .filter(Column::Id.is_in(devices.iter().map(|device| device.get())))
        .into_tuple()
        .all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(id, at)| (DeviceId(id), at))
        .collect())
}
