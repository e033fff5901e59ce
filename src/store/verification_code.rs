//! Queries on verification codes and the wrong attempts per phone number, which share a row: the
//! row's lock decides between concurrent guesses.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, OnConflict},
};

use super::{
    Conn,
    entity::verification_code::{ActiveModel, Column, Entity},
};
use crate::error::{Error, Result};

pub use super::entity::verification_code::Model as Row;

/// What is known of a phone number.
///
/// # Errors
/// When the database does not answer; so do all functions here.
pub async fn by_number(conn: &impl Conn, number: &str) -> Result<Option<Row>> {
    Ok(Entity::find_by_id(number).one(conn).await?)
}

/// What is known of a phone number, locked until the transaction ends.
///
/// # Errors
/// See [`by_number`].
pub async fn lock(conn: &impl Conn, number: &str) -> Result<Option<Row>> {
    Ok(Entity::find_by_id(number)
        .lock_exclusive()
        .one(conn)
        .await?)
}

/// The locked row of a phone number, made where there was none. Both cases take as long: a row is
/// there for whoever once asked for a code, and that is not to be told.
///
/// # Errors
/// See [`by_number`].
pub async fn lock_or_create(conn: &impl Conn, number: &str) -> Result<Row> {
    Entity::insert(ActiveModel {
        phone_number: Set(number.to_owned()),
        code_hash: Set(None),
        sent_at: Set(0),
        expires_at: Set(0),
        attempts: Set(0),
        attempts_since: Set(0),
    })
    .on_conflict(
        OnConflict::column(Column::PhoneNumber)
            .do_nothing_on([Column::PhoneNumber])
            .to_owned(),
    )
    .exec_without_returning(conn)
    .await?;
    lock(conn, number)
        .await?
        .ok_or_else(|| Error::internal("a row that was just created is not there"))
}

/// Stores a code that is about to be sent, over the one before.
///
/// # Errors
/// See [`by_number`].
pub async fn set_code(
    conn: &impl Conn,
    number: &str,
    code_hash: &[u8],
    sent_at: i64,
    expires_at: i64,
) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::CodeHash, Expr::value(code_hash.to_vec()))
        .col_expr(Column::SentAt, Expr::value(sent_at))
        .col_expr(Column::ExpiresAt, Expr::value(expires_at))
        .filter(Column::PhoneNumber.eq(number))
        .exec(conn)
        .await?;
    Ok(())
}

/// Forgets a code that could not be sent, so that another may be asked for at once; a newer one
/// stays.
///
/// # Errors
/// See [`by_number`].
pub async fn forget_unsent(conn: &impl Conn, number: &str, code_hash: &[u8]) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::CodeHash, Expr::value(None::<Vec<u8>>))
        .col_expr(Column::SentAt, Expr::value(0_i64))
        .filter(Column::PhoneNumber.eq(number))
        .filter(Column::CodeHash.eq(code_hash.to_vec()))
        .exec(conn)
        .await?;
    Ok(())
}

/// Makes sure that a number's code is not accepted again.
///
/// # Errors
/// See [`by_number`].
pub async fn use_up(conn: &impl Conn, number: &str) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::CodeHash, Expr::value(None::<Vec<u8>>))
        .filter(Column::PhoneNumber.eq(number))
        .exec(conn)
        .await?;
    Ok(())
}

/// Stores how many wrong attempts there were on a number since `since`, in unix milliseconds.
///
/// # Errors
/// See [`by_number`].
pub async fn set_attempts(conn: &impl Conn, number: &str, attempts: i32, since: i64) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::Attempts, Expr::value(attempts))
        .col_expr(Column::AttemptsSince, Expr::value(since))
        .filter(Column::PhoneNumber.eq(number))
        .exec(conn)
        .await?;
    Ok(())
}
