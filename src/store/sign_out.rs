//! Sign-outs of users whose tokens are not kept here. What was vouched for before one does not count
//! after it, so whoever signs in by what he was told earlier looks here in his transaction.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait, EntityTrait, ExprTrait, QueryFilter,
    sea_query::{CaseStatement, Expr, OnConflict, Query},
};

use super::{
    Conn, Outcome,
    entity::sign_out::{Column, Entity, Model},
    ids::padded,
    incoming,
};
use crate::id::{DeviceId, UserId};

/// What stands for all devices of a user.
pub const ALL: DeviceId = DeviceId(0);

/// The sign-outs that concern some users' devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignOuts(HashMap<(UserId, DeviceId), Model>);

impl SignOuts {
    /// How many times a user was signed out on a device, or on all.
    #[must_use]
    pub fn count(&self, user: UserId, device: DeviceId) -> i64 {
        self.of(user, device).map(|row| row.count).sum()
    }

    /// Those that concern a device.
    pub fn of(&self, user: UserId, device: DeviceId) -> impl Iterator<Item = &Model> {
        let keys = [(user, ALL), (user, device)];
        keys.into_iter().filter_map(|key| self.0.get(&key))
    }
}

/// Records that a user was signed out at `at_s` on devices, each with the hash of the token that it
/// had; device 0 are all. Whoever calls it holds the lock of the user's head.
///
/// # Errors
/// What the database answers; so do all functions here.
pub(crate) async fn record(
    conn: &impl Conn,
    user: UserId,
    devices: &[(DeviceId, Vec<u8>)],
    at_s: i64,
) -> Outcome<()> {
    use Column as C;

    let mut upsert = Query::insert();
    let columns = [C::UserId, C::DeviceId, C::Count, C::AtS, C::TokenHash];
    upsert.into_table(Entity).columns(columns);
    for (device, token_hash) in devices {
        upsert.values_panic([
            user.get().into(),
            device.get().into(),
            1.into(),
            at_s.into(),
            token_hash.clone().into(),
        ]);
    }
    // A sign-out that is repeated finds no token; the one that the first has ended stays so.
    let token_hash = CaseStatement::new()
        .case(
            incoming(conn, C::TokenHash).eq(Vec::<u8>::new()),
            Expr::col((Entity, C::TokenHash)),
        )
        .finally(incoming(conn, C::TokenHash));
    let once_more = Expr::col((Entity, C::Count)).add(incoming(conn, C::Count));
    upsert.on_conflict(
        OnConflict::columns([C::UserId, C::DeviceId])
            .value(C::Count, once_more)
            .value(C::AtS, incoming(conn, C::AtS))
            .value(C::TokenHash, token_hash)
            .to_owned(),
    );
    conn.execute(&upsert).await?;
    Ok(())
}

/// The sign-outs of users on devices.
///
/// # Errors
/// See [`record`].
pub(crate) async fn of(conn: &impl Conn, sessions: &[(UserId, DeviceId)]) -> Outcome<SignOuts> {
    let users = padded(sessions.iter().map(|(user, _)| user.get()));
    let devices = sessions.iter().map(|(_, device)| device.get());
    let devices = padded(devices.chain([ALL.get()]));
    let rows = Entity::find()
        .filter(Column::UserId.is_in(users))
        .filter(Column::DeviceId.is_in(devices))
        .all(conn)
        .await?;
    let keyed = |row: Model| ((UserId(row.user_id), DeviceId(row.device_id)), row);
    Ok(SignOuts(rows.into_iter().map(keyed).collect()))
}
