//! Queries on files: a row is there before the first byte of its file is stored and until the last one
//! is gone, so that whatever a crash leaves behind is found by its row.

use sea_orm::{
    ActiveModelTrait, ActiveValue::NotSet, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect, sea_query::Expr,
};

use super::{
    Conn,
    entity::file::{Column, Entity},
};
use crate::error::Result;

pub use super::entity::file::Model as Row;

/// What a row says of its file, in the column `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum State {
    /// It is being uploaded; nobody can get it.
    Pending = 1,
    /// It is whole, and stays.
    Stored = 2,
    /// It is being removed.
    Discarded = 3,
}

/// When a stored file expires: it does not.
pub const NEVER: i64 = i64::MAX;

/// Stores a new row; the id in `row` is not used.
///
/// # Errors
/// When the database does not answer; so do all functions here.
pub async fn insert(conn: &impl Conn, row: Row) -> Result<i64> {
    let mut row = row.into_active_model().reset_all();
    row.id = NotSet;
    Ok(Entity::insert(row).exec(conn).await?.last_insert_id)
}

/// The row of a key, whatever its state.
///
/// # Errors
/// See [`insert`].
pub async fn by_key(conn: &impl Conn, key: &str) -> Result<Option<Row>> {
    Ok(Entity::find().filter(Column::Key.eq(key)).one(conn).await?)
}

/// Notes under which id the storage collects the parts of a pending file; false when it is pending no
/// more.
///
/// # Errors
/// See [`insert`].
pub async fn set_upload_id(conn: &impl Conn, id: i64, upload_id: &str) -> Result<bool> {
    let updated = Entity::update_many()
        .col_expr(Column::UploadId, Expr::value(upload_id))
        .filter(Column::Id.eq(id))
        .filter(Column::State.eq(State::Pending as i16))
        .exec(conn)
        .await?;
    Ok(updated.rows_affected == 1)
}

/// Makes a pending file a stored one; false when it is pending no more.
///
/// # Errors
/// See [`insert`].
pub async fn keep(conn: &impl Conn, id: i64, size: i64, sha256: &[u8; 32]) -> Result<bool> {
    let updated = Entity::update_many()
        .col_expr(Column::State, Expr::value(State::Stored as i16))
        .col_expr(Column::Size, Expr::value(size))
        .col_expr(Column::Sha256, Expr::value(sha256.to_vec()))
        .col_expr(Column::ExpiresAt, Expr::value(NEVER))
        .filter(Column::Id.eq(id))
        .filter(Column::State.eq(State::Pending as i16))
        .exec(conn)
        .await?;
    Ok(updated.rows_affected == 1)
}

/// At most `max` files that were given up by `now_ms`, those longest due first.
///
/// # Errors
/// See [`insert`].
pub async fn due(conn: &impl Conn, now_ms: i64, max: u64) -> Result<Vec<Row>> {
    Ok(Entity::find()
        .filter(Column::ExpiresAt.lte(now_ms))
        .order_by_asc(Column::ExpiresAt)
        .limit(max)
        .all(conn)
        .await?)
}

/// Takes `row` to be removed, so that it can be stored no more; false when somebody else has changed
/// it. It is due again at `again_ms`, for whoever removes it may die.
///
/// # Errors
/// See [`insert`].
pub async fn discard(conn: &impl Conn, row: &Row, again_ms: i64) -> Result<bool> {
    let updated = Entity::update_many()
        .col_expr(Column::State, Expr::value(State::Discarded as i16))
        .col_expr(Column::ExpiresAt, Expr::value(again_ms))
        .filter(Column::Id.eq(row.id))
        .filter(Column::State.eq(row.state))
        .filter(Column::ExpiresAt.eq(row.expires_at))
        .exec(conn)
        .await?;
    Ok(updated.rows_affected == 1)
}

/// Deletes the row of a file of which nothing is stored any more.
///
/// # Errors
/// See [`insert`].
pub async fn delete(conn: &impl Conn, id: i64) -> Result<()> {
    Entity::delete_many()
        .filter(Column::Id.eq(id))
        .filter(Column::State.eq(State::Discarded as i16))
        .exec(conn)
        .await?;
    Ok(())
}
