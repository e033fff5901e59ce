//! Queries on friends and on who asked to become one. Who may do what is decided in `friend`; this
//! only reads and writes rows.
//!
//! A row says what `user_id` has to do with `friend_id`. Friends have a row each, both
//! [agreed](Status::Agreed); who only asked has one, and the other has none.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, EntityTrait, FromQueryResult, JoinType, QueryFilter, QueryOrder,
    QuerySelect,
    sea_query::{Expr, ExprTrait, OnConflict},
};

use super::{
    Conn, Outcome,
    entity::{
        friend::{ActiveModel, Column, Entity},
        user,
    },
    timeline,
};
use crate::{
    error::Result,
    id::{Owner, UserId},
};

/// How far somebody has come with somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// He has asked to become his friend.
    Asked,
    /// They are friends.
    Agreed,
}

impl Status {
    const fn column(self) -> i16 {
        match self {
            Self::Asked => 1,
            Self::Agreed => 2,
        }
    }

    const fn from_column(column: i16) -> Self {
        if column == Self::Agreed.column() {
            Self::Agreed
        } else {
            Self::Asked
        }
    }
}

/// What two users are to each other, seen by one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// His own row.
    pub mine: Option<Status>,
    /// The other's.
    pub theirs: Option<Status>,
}

/// A friend, with what he tells of himself and what is noted about him.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct Friend {
    /// The friend.
    pub user_id: i64,
    /// His own words; so is what follows.
    pub phone_number: String,
    /// How he wants to be called.
    pub nickname: String,
    /// 0 unknown, 1 male, 2 female.
    pub sex: i16,
    /// Where his picture is.
    pub avatar_url: String,
    /// Whatever the business keeps with him.
    pub user_extra: String,
    /// What the other calls him.
    pub remarks: String,
    /// Whatever the business keeps with the friendship.
    pub extra: String,
}

/// What `me` and `other` are to each other, locked until the transaction ends. The locks are on the
/// heads of their timelines: the rows of the friendship may not be there yet, and those of the users
/// may be kept elsewhere.
///
/// # Errors
/// What the database answers.
pub(crate) async fn lock(conn: &impl Conn, me: UserId, other: UserId) -> Outcome<Pair> {
    timeline::lock_heads(conn, [me, other].map(Owner::User)).await?;
    pair(conn, me, other).await
}

/// What `me` and `other` are to each other.
///
/// # Errors
/// What the database answers.
pub(crate) async fn pair(conn: &impl Conn, me: UserId, other: UserId) -> Outcome<Pair> {
    let either = Condition::any()
        .add(
            Column::UserId
                .eq(me.get())
                .and(Column::FriendId.eq(other.get())),
        )
        .add(
            Column::UserId
                .eq(other.get())
                .and(Column::FriendId.eq(me.get())),
        );
    let rows: Vec<(i64, i16)> = Entity::find()
        .select_only()
        .columns([Column::UserId, Column::Status])
        .filter(either)
        .into_tuple()
        .all(conn)
        .await?;
    let of = |user: UserId| {
        let row = rows.iter().find(|(id, _)| *id == user.get());
        row.map(|(_, status)| Status::from_column(*status))
    };
    Ok(Pair {
        mine: of(me),
        theirs: of(other),
    })
}

/// Writes how far `user` has come with `friend`, and what he calls him.
///
/// # Errors
/// What the database answers.
pub(crate) async fn put(
    conn: &impl Conn,
    user: UserId,
    friend: UserId,
    status: Status,
    remarks: String,
    now_ms: i64,
) -> Outcome<()> {
    let row = ActiveModel {
        user_id: Set(user.get()),
        friend_id: Set(friend.get()),
        remarks: Set(remarks),
        extra: Set(String::new()),
        status: Set(status.column()),
        created_at: Set(now_ms),
        updated_at: Set(now_ms),
    };
    Entity::insert(row)
        .on_conflict(
            OnConflict::columns([Column::UserId, Column::FriendId])
                .update_columns([Column::Remarks, Column::Status, Column::UpdatedAt])
                .to_owned(),
        )
        .exec_without_returning(conn)
        .await?;
    Ok(())
}

/// What `asker` asked for has come true: `friend` agreed.
///
/// # Errors
/// What the database answers.
pub(crate) async fn agree(
    conn: &impl Conn,
    asker: UserId,
    friend: UserId,
    now_ms: i64,
) -> Outcome<()> {
    Entity::update_many()
        .col_expr(Column::Status, Expr::value(Status::Agreed.column()))
        .col_expr(Column::UpdatedAt, Expr::value(now_ms))
        .filter(Column::UserId.eq(asker.get()))
        .filter(Column::FriendId.eq(friend.get()))
        .exec(conn)
        .await?;
    Ok(())
}

/// Replaces what `user` notes about a friend; false when they are not friends.
///
/// # Errors
/// When the database does not answer.
pub async fn describe(
    conn: &impl Conn,
    user: UserId,
    friend: UserId,
    remarks: &str,
    extra: &str,
    now_ms: i64,
) -> Result<bool> {
    let updated = Entity::update_many()
        .col_expr(Column::Remarks, Expr::value(remarks))
        .col_expr(Column::Extra, Expr::value(extra))
        .col_expr(Column::UpdatedAt, Expr::value(now_ms))
        .filter(Column::UserId.eq(user.get()))
        .filter(Column::FriendId.eq(friend.get()))
        .filter(Column::Status.eq(Status::Agreed.column()))
        .exec(conn)
        .await?;
    Ok(updated.rows_affected == 1)
}

/// Whether two users are friends.
///
/// # Errors
/// When the database does not answer.
pub async fn are_friends(conn: &impl Conn, one: UserId, other: UserId) -> Result<bool> {
    let row = Entity::find_by_id((one.get(), other.get()))
        .one(conn)
        .await?;
    Ok(row.is_some_and(|row| row.status == Status::Agreed.column()))
}

/// What is noted about a friend of whom the database knows nothing else.
pub type NotesRow = (i64, String, String);

/// The ids of a user's friends, ascending, each with remarks and extra.
///
/// # Errors
/// When the database does not answer.
pub async fn notes_of_user(conn: &impl Conn, user: UserId) -> Result<Vec<NotesRow>> {
    Ok(Entity::find()
        .select_only()
        .columns([Column::FriendId, Column::Remarks, Column::Extra])
        .filter(Column::UserId.eq(user.get()))
        .filter(Column::Status.eq(Status::Agreed.column()))
        .order_by_asc(Column::FriendId)
        .into_tuple()
        .all(conn)
        .await?)
}

/// The friends of a user, by id, where accounts are in this database.
///
/// # Errors
/// When the database does not answer.
pub async fn of_user(conn: &impl Conn, user: UserId) -> Result<Vec<Friend>> {
    let is_he = Expr::col((user::Entity, user::Column::Id)).equals((Entity, Column::FriendId));
    let mut select = Entity::find()
        .select_only()
        .column_as(Column::FriendId, "user_id")
        .column(user::Column::PhoneNumber)
        .column(user::Column::Nickname)
        .column(user::Column::Sex)
        .column(user::Column::AvatarUrl)
        .column_as(user::Column::Extra, "user_extra")
        .column(Column::Remarks)
        .column(Column::Extra)
        .filter(Column::UserId.eq(user.get()))
        .filter(Column::Status.eq(Status::Agreed.column()))
        .order_by_asc(Column::FriendId);
    QuerySelect::query(&mut select).join(JoinType::InnerJoin, user::Entity, is_he);
    Ok(select.into_model::<Friend>().all(conn).await?)
}
