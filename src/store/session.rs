//! What signing in on the long connection reads and writes: tokens and the devices' generations.

use std::collections::HashMap;

use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter,
    QuerySelect,
    sea_query::{Expr, OnConflict, Query},
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

/// Keeps what devices signed in with, in place of what they had, and whose they are now. Each device
/// is there once.
///
/// # Errors
/// What the database answers.
pub(crate) async fn keep(conn: &impl Conn, tokens: &[TokenRow], now_ms: i64) -> Outcome<()> {
    use auth_token::Column as C;

    if tokens.is_empty() {
        return Ok(());
    }
    let rows = tokens.iter().map(|token| token.clone().into_active_model());
    let replace = OnConflict::column(C::DeviceId)
        .update_columns([C::UserId, C::TokenHash, C::ExpiresAt])
        .to_owned();
    auth_token::Entity::insert_many(rows.map(ActiveModelTrait::reset_all))
        .on_conflict(replace)
        .exec_without_returning(conn)
        .await?;
    for token in tokens {
        device::Entity::update_many()
            .col_expr(device::Column::UserId, Expr::value(token.user_id))
            .col_expr(device::Column::UpdatedAt, Expr::value(now_ms))
            .filter(device::Column::Id.eq(token.device_id))
            .filter(device::Column::UserId.ne(token.user_id))
            .exec(conn)
            .await?;
    }
    Ok(())
}

/// Locks a device whose newest session has `generation`; false when there is a newer one.
///
/// # Errors
/// What the database answers.
pub(crate) async fn lock(
    conn: &impl Conn,
    device: DeviceId,
    generation: i64,
    now_ms: i64,
) -> Outcome<bool> {
    let locked = device::Entity::update_many()
        .col_expr(device::Column::UpdatedAt, Expr::value(now_ms))
        .filter(device::Column::Id.eq(device.get()))
        .filter(device::Column::SessionGen.eq(generation))
        .exec(conn)
        .await?;
    Ok(locked.rows_affected == 1)
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
