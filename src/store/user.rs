//! Queries on accounts.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, DbBackend, EntityTrait, ExprTrait, QueryFilter, QueryOrder,
    QuerySelect,
    sea_query::{Expr, OnConflict},
};

use super::{
    Conn,
    entity::user::{ActiveModel, Column, Entity},
    ids::padded,
};
use crate::{
    error::{Error, Result},
    id::UserId,
};

pub use super::entity::user::Model as User;

/// What users may change of themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// How the user wants to be called.
    pub nickname: String,
    /// 0 unknown, 1 male, 2 female.
    pub sex: i16,
    /// Where the picture is.
    pub avatar_url: String,
    /// Whatever the business keeps with the user.
    pub extra: String,
}

/// The columns of a user's profile: id, nickname, sex, avatar URL, extra.
pub type ProfileRow = (i64, String, i16, String, String);

/// An account.
///
/// # Errors
/// When the database does not answer; so do all functions here.
pub async fn by_id(conn: &impl Conn, user: UserId) -> Result<Option<User>> {
    Ok(Entity::find_by_id(user.get()).one(conn).await?)
}

/// The accounts of those of `users` that are there.
///
/// # Errors
/// See [`by_id`].
pub async fn by_ids(conn: &impl Conn, users: &[UserId]) -> Result<Vec<User>> {
    Ok(Entity::find()
        .filter(Column::Id.is_in(padded(users.iter().map(|user| user.get()))))
        .all(conn)
        .await?)
}

/// The account with a phone number.
///
/// # Errors
/// See [`by_id`].
pub async fn by_phone_number(conn: &impl Conn, number: &str) -> Result<Option<User>> {
    Ok(Entity::find()
        .filter(Column::PhoneNumber.eq(number))
        .one(conn)
        .await?)
}

/// The account with a phone number, its row locked until the transaction ends.
///
/// # Errors
/// See [`by_id`].
pub async fn lock_by_phone_number(conn: &impl Conn, number: &str) -> Result<Option<User>> {
    Ok(Entity::find()
        .filter(Column::PhoneNumber.eq(number))
        .lock_exclusive()
        .one(conn)
        .await?)
}

/// Makes sure that there is an account with a phone number, and returns it locked, and whether it
/// is new.
///
/// # Errors
/// See [`by_id`].
pub async fn lock_or_create(conn: &impl Conn, number: &str, now_ms: i64) -> Result<(User, bool)> {
    if let Some(user) = lock_by_phone_number(conn, number).await? {
        return Ok((user, false));
    }
    let inserted = Entity::insert(ActiveModel {
        phone_number: Set(number.to_owned()),
        nickname: Set(String::new()),
        sex: Set(0),
        avatar_url: Set(String::new()),
        extra: Set(String::new()),
        password_hash: Set(None),
        created_at: Set(now_ms),
        updated_at: Set(now_ms),
        ..Default::default()
    })
    .on_conflict(unless_there(conn))
    .exec_without_returning(conn)
    .await?;
    let user = lock_by_phone_number(conn, number)
        .await?
        .ok_or_else(|| Error::internal("an account that was just created is not there"))?;
    Ok((user, inserted == 1))
}

/// Inserts no second account with a phone number, so that one row affected means a new one. MySQL
/// counts a row that it leaves as it is like a new one, and one that it changes twice
/// (<https://dev.mysql.com/doc/refman/8.4/en/insert-on-duplicate.html>).
fn unless_there(conn: &impl Conn) -> OnConflict {
    let mut conflict = OnConflict::column(Column::PhoneNumber);
    match conn.get_database_backend() {
        DbBackend::MySql => conflict.value(Column::UpdatedAt, Expr::col(Column::UpdatedAt).add(1)),
        _ => conflict.do_nothing(),
    };
    conflict
}

/// Replaces what a user may change; false when there is no such user.
///
/// # Errors
/// See [`by_id`].
pub async fn update(conn: &impl Conn, user: UserId, changes: Changes, now_ms: i64) -> Result<bool> {
    let updated = Entity::update_many()
        .col_expr(Column::Nickname, Expr::value(changes.nickname))
        .col_expr(Column::Sex, Expr::value(changes.sex))
        .col_expr(Column::AvatarUrl, Expr::value(changes.avatar_url))
        .col_expr(Column::Extra, Expr::value(changes.extra))
        .col_expr(Column::UpdatedAt, Expr::value(now_ms))
        .filter(Column::Id.eq(user.get()))
        .exec(conn)
        .await?;
    Ok(updated.rows_affected == 1)
}

/// Stores the hash of a user's new password; false when there is no such user.
///
/// # Errors
/// See [`by_id`].
pub async fn set_password_hash(conn: &impl Conn, user: UserId, hash: String) -> Result<bool> {
    let updated = Entity::update_many()
        .col_expr(Column::PasswordHash, Expr::value(hash))
        .filter(Column::Id.eq(user.get()))
        .exec(conn)
        .await?;
    Ok(updated.rows_affected == 1)
}

/// The profiles of those of `users` that are there.
///
/// # Errors
/// See [`by_id`].
pub async fn profiles(conn: &impl Conn, users: &[UserId]) -> Result<Vec<ProfileRow>> {
    Ok(Entity::find()
        .select_only()
        .columns([
            Column::Id,
            Column::Nickname,
            Column::Sex,
            Column::AvatarUrl,
            Column::Extra,
        ])
        .filter(Column::Id.is_in(padded(users.iter().map(|user| user.get()))))
        .into_tuple()
        .all(conn)
        .await?)
}

/// Those of `users` that are there, ascending.
///
/// # Errors
/// See [`by_id`].
pub async fn existing(conn: &impl Conn, users: &[UserId]) -> Result<Vec<UserId>> {
    let ids: Vec<i64> = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::Id.is_in(padded(users.iter().map(|user| user.get()))))
        .order_by_asc(Column::Id)
        .into_tuple()
        .all(conn)
        .await?;
    Ok(ids.into_iter().map(UserId).collect())
}

/// At most `max` users whose nickname begins with `key`, which is not empty, in the order of
/// their nicknames. It is a range of the index, so `%` and `_` mean themselves.
///
/// # Errors
/// See [`by_id`].
pub async fn by_nickname_start(conn: &impl Conn, key: &str, max: u64) -> Result<Vec<User>> {
    let range = Condition::all()
        .add(Column::Nickname.gte(key))
        .add_option(after_all_with_start(key).map(|end| Column::Nickname.lt(end)));
    let mut users = Entity::find()
        .filter(range)
        .order_by_asc(Column::Nickname)
        .order_by_asc(Column::Id)
        .limit(max)
        .all(conn)
        .await?;
    // To MySQL spaces at the end are nothing.
    users.retain(|user| user.nickname.starts_with(key));
    Ok(users)
}

/// The smallest string, in the order of code points, that is greater than every string which
/// begins with `start`; `None` when there is none.
fn after_all_with_start(start: &str) -> Option<String> {
    let mut end = start.to_owned();
    while let Some(last) = end.pop() {
        // Steps over the surrogates, which are no characters.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::after_all_with_start;

    #[test]
    fn end_of_a_range_of_strings_follows_all_of_them() {
        assert_eq!(after_all_with_start("ab").as_deref(), Some("ac"));
        assert_eq!(
            after_all_with_start("a\u{d7ff}").as_deref(),
            Some("a\u{e000}")
        );
        assert_eq!(after_all_with_start("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_all_with_start("\u{10ffff}"), None);
    }
}
