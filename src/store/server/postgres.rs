//! PostgreSQL: how a connection is set up, and the statement that appends a batch.
//!
//! Arrays and UNNEST make one statement of a batch of any size, which is prepared once.

use std::collections::HashMap;

use sea_orm::sqlx::{
    self, Row as _,
    postgres::{PgArguments, PgConnection, PgRow, Postgres},
    query::Query,
};

use super::{
    append::Written,
    plan::{Plan, Planned},
};
use crate::{
    id::{GroupId, Owner, Seq},
    limits::{IDLE_TRANSACTION_MAX, LOCK_TIMEOUT},
    store::append::{Send, beside},
};

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

const LOCK_GROUPS: &str =
    "SELECT id, type, version FROM \"group\" WHERE id = ANY($1) ORDER BY id FOR UPDATE";

const COUNT_MEMBERS: &str = "SELECT COUNT(*) FROM group_member m \
     JOIN UNNEST($1::bigint[], $2::bigint[]) AS k (group_id, user_id) \
     ON m.group_id = k.group_id AND m.user_id = k.user_id";

/// The statement that appends, with what is written beside the messages.
macro_rules! append {
    ($beside:literal) => {
        concat!(
            "WITH raised AS ( \
               INSERT INTO timeline_head (owner_type, owner_id, seq) \
               SELECT * FROM UNNEST($1::smallint[], $2::bigint[], $3::bigint[]) \
               ON CONFLICT (owner_type, owner_id) \
                 DO UPDATE SET seq = timeline_head.seq + excluded.seq \
               RETURNING owner_type, owner_id, seq \
             ), stored AS ( \
               INSERT INTO message (id, sender_type, sender_id, sender_device_id, receiver_type, \
                 receiver_id, to_user_ids, type, content, send_time, status, client_message_id, \
                 digest) \
               SELECT * FROM UNNEST($4::bigint[], $5::smallint[], $6::bigint[], $7::bigint[], \
                 $8::smallint[], $9::bigint[], $10::bytea[], $11::smallint[], $12::bytea[], \
                 $13::bigint[], $14::smallint[], $15::bytea[], $16::bytea[]) \
             ), placed AS ( \
               INSERT INTO timeline_entry (owner_type, owner_id, seq, message_id) \
               SELECT owner_type, owner_id, raised.seq - planned.back, planned.message_id \
               FROM UNNEST($17::smallint[], $18::bigint[], $19::bigint[], $20::bigint[]) \
                 AS planned (owner_type, owner_id, back, message_id) \
               JOIN raised USING (owner_type, owner_id) \
             )",
            $beside,
            " SELECT owner_type, owner_id, seq, (SELECT epoch FROM cluster) FROM raised"
        )
    };
}

/// Raises the heads, in the order of the arrays, and writes messages and entries: an entry stands so
/// far before the head as was worked out beforehand. The heads' rows are locked from here to the
/// commit, which is what I1 rests on.
const APPEND: &str = append!("");

/// The same, and what is written beside the messages. The ids of events are taken once the heads are
/// locked: those of one user are in the order of his messages.
const APPEND_WITH_EVENTS: &str = append!(
    ", told AS ( \
       INSERT INTO outbox (kind, owner_id, message_id, device_id, created_at) \
       SELECT * FROM UNNEST($21::smallint[], $22::bigint[], $23::bigint[], $24::bigint[], \
         $25::bigint[]) WHERE (SELECT COUNT(*) FROM raised) > 0 \
     ), checked AS ( \
       INSERT INTO undelivered_check (due_at, message_id) \
       SELECT * FROM UNNEST($26::bigint[], $27::bigint[]) \
     )"
);

/// Sets a new connection up.
pub(super) async fn set_up(connection: &mut PgConnection) -> sqlx::Result<()> {
    let sql = format!(
        "SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}; \
         SET default_transaction_isolation = 'read committed'; SET jit = off",
        LOCK_TIMEOUT.as_millis(),
        IDLE_TRANSACTION_MAX.as_millis(),
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(drop)
}

/// See [`Own::write`](super::Own).
pub(super) async fn write(
    connection: &mut PgConnection,
    sends: &[Send],
    plan: &Plan,
) -> sqlx::Result<Option<Written>> {
    sqlx::raw_sql(BEGIN).execute(&mut *connection).await?;
    if !plan.groups.is_empty() && !groups_hold(connection, plan).await? {
        return Ok(None);
    }
    let rows = raise_and_insert(connection, sends, plan).await?;
    let mut heads = HashMap::with_capacity(rows.len());
    let mut epoch = 0;
    for row in rows {
        epoch = row.try_get(3)?;
        if let Some(owner) = Owner::from_columns(row.try_get(0)?, row.try_get(1)?) {
            heads.insert(owner, Seq(row.try_get(2)?));
        }
    }
    Ok(Some(Written { epoch, heads }))
}

/// Locks the groups and looks whether they and their members are as planned.
async fn groups_hold(connection: &mut PgConnection, plan: &Plan) -> sqlx::Result<bool> {
    let ids: Vec<i64> = plan.groups.keys().map(|id| id.get()).collect();
    let found = sqlx::query(LOCK_GROUPS)
        .bind(ids)
        .fetch_all(&mut *connection)
        .await?;
    let found = found
        .iter()
        .map(|row| Ok((GroupId(row.try_get(0)?), row.try_get(1)?, row.try_get(2)?)));
    if !plan.holds(&found.collect::<sqlx::Result<Vec<_>>>()?) {
        return Ok(false);
    }
    if plan.members.is_empty() {
        return Ok(true);
    }
    let (groups, users): (Vec<i64>, Vec<i64>) = plan
        .members
        .iter()
        .map(|(group, user)| (group.get(), user.get()))
        .unzip();
    let members: i64 = sqlx::query(COUNT_MEMBERS)
        .bind(groups)
        .bind(users)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    Ok(members == plan.members.len() as i64)
}

async fn raise_and_insert(
    connection: &mut PgConnection,
    sends: &[Send],
    plan: &Plan,
) -> sqlx::Result<Vec<PgRow>> {
    let heads = || plan.increments.iter();
    let rows = || sends.iter().map(|send| &send.row);
    let entries: Vec<Planned> = plan.entries(sends).collect();
    let entries = || entries.iter();
    let statement = match sends.iter().any(|send| send.events.is_some()) {
        true => APPEND_WITH_EVENTS,
        false => APPEND,
    };
    let append = sqlx::query(statement)
        .bind(heads().map(|(owner, _)| owner.kind()).collect::<Vec<_>>())
        .bind(heads().map(|(owner, _)| owner.id()).collect::<Vec<_>>())
        .bind(heads().map(|(_, by)| *by).collect::<Vec<_>>())
        .bind(rows().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows().map(|row| row.sender_type).collect::<Vec<_>>())
        .bind(rows().map(|row| row.sender_id).collect::<Vec<_>>())
        .bind(rows().map(|row| row.sender_device_id).collect::<Vec<_>>())
        .bind(rows().map(|row| row.receiver_type).collect::<Vec<_>>())
        .bind(rows().map(|row| row.receiver_id).collect::<Vec<_>>())
        .bind(rows().map(|row| &row.to_user_ids[..]).collect::<Vec<_>>())
        .bind(rows().map(|row| row.r#type).collect::<Vec<_>>())
        .bind(rows().map(|row| &row.content[..]).collect::<Vec<_>>())
        .bind(rows().map(|row| row.send_time).collect::<Vec<_>>())
        .bind(rows().map(|row| row.status).collect::<Vec<_>>())
        .bind(
            rows()
                .map(|row| row.client_message_id.as_deref())
                .collect::<Vec<_>>(),
        )
        .bind(rows().map(|row| &row.digest[..]).collect::<Vec<_>>())
        .bind(
            entries()
                .map(|entry| entry.owner.kind())
                .collect::<Vec<_>>(),
        )
        .bind(entries().map(|entry| entry.owner.id()).collect::<Vec<_>>())
        .bind(entries().map(|entry| entry.back).collect::<Vec<_>>())
        .bind(
            entries()
                .map(|entry| entry.message.get())
                .collect::<Vec<_>>(),
        );
    let append = match statement {
        APPEND => append,
        _ => bind_events(append, sends),
    };
    append.fetch_all(connection).await
}

/// Binds what is written beside the messages.
fn bind_events<'q>(
    append: Query<'q, Postgres, PgArguments>,
    sends: &[Send],
) -> Query<'q, Postgres, PgArguments> {
    let (events, checks) = beside(sends);
    let events = || events.iter();
    append
        .bind(events().map(|e| e.kind.column()).collect::<Vec<_>>())
        .bind(events().map(|e| e.owner).collect::<Vec<_>>())
        .bind(events().map(|e| e.message.get()).collect::<Vec<_>>())
        .bind(events().map(|e| e.device).collect::<Vec<_>>())
        .bind(events().map(|e| e.created_at).collect::<Vec<_>>())
        .bind(checks.iter().map(|check| check.due_at).collect::<Vec<_>>())
        .bind(checks.iter().map(|c| c.message_id).collect::<Vec<_>>())
}
