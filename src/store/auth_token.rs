//! Queries on the tokens that sign devices in: at most one per device.

use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, sea_query::OnConflict};

use super::{
    Conn,
    entity::auth_token::{ActiveModel, Column, Entity, Model},
};
use crate::{
    error::Result,
    id::{DeviceId, UserId},
};

/// The token of a device.
///
/// # Errors
/// When the database does not answer; so do all functions here.
pub async fn by_device(conn: &impl Conn, device: DeviceId) -> Result<Option<Model>> {
    Ok(Entity::find_by_id(device.get()).one(conn).await?)
}

/// Every token of a user.
///
/// # Errors
/// See [`by_device`].
pub async fn of_user(conn: &impl Conn, user: UserId) -> Result<Vec<Model>> {
    Ok(Entity::find()
        .filter(Column::UserId.eq(user.get()))
        .all(conn)
        .await?)
}

/// Gives a device a token in place of the one it had.
///
/// # Errors
/// See [`by_device`].
pub async fn replace(conn: &impl Conn, token: Model) -> Result<()> {
    let replace = OnConflict::column(Column::DeviceId)
        .update_columns([Column::UserId, Column::TokenHash, Column::ExpiresAt])
        .to_owned();
    Entity::insert(ActiveModel {
        device_id: Set(token.device_id),
        user_id: Set(token.user_id),
        token_hash: Set(token.token_hash),
        expires_at: Set(token.expires_at),
    })
    .on_conflict(replace)
    .exec_without_returning(conn)
    .await?;
    Ok(())
}

/// Deletes the tokens that a user has on some devices.
///
/// # Errors
/// See [`by_device`].
pub async fn delete(conn: &impl Conn, user: UserId, devices: &[DeviceId]) -> Result<()> {
    Entity::delete_many()
        .filter(Column::UserId.eq(user.get()))
        .filter(Column::DeviceId.is_in(devices.iter().map(|device| device.get())))
        .exec(conn)
        .await?;
    Ok(())
}
