//! MySQL and MariaDB: how a connection is set up, and the statements that append a batch.
//!
//! A batch is two packets of several statements each, and the commit: prepared statements would take
//! a round trip each, and be prepared for every number of rows anew. The text holds numbers and
//! hexadecimal digits only, nothing that anybody sent.

use std::{collections::HashMap, fmt::Write as _};

use futures_util::TryStreamExt as _;
use sea_orm::sqlx::{
    self, AssertSqlSafe, Either, Executor as _, Row as _,
    mysql::{MySqlConnection, MySqlRow},
};

use super::{append::Written, plan::Plan};
use crate::{
    id::{GroupId, Owner, Seq},
    limits::{IDLE_TRANSACTION_MAX, LOCK_TIMEOUT},
    store::{
        append::{Send, beside},
        message::Row,
    },
};

/// Bytes of a packet after which another one is begun: a fourth of what servers take by default.
const PACKET_BYTES: usize = 4 * 1024 * 1024;

/// Sets a new connection up. What ends a transaction that its instance has forgotten differs: MariaDB
/// knows idle transactions, MySQL only idle connections, which the pools open again.
pub(super) async fn set_up(connection: &mut MySqlConnection) -> sqlx::Result<()> {
    let version: String = connection.fetch_one("SELECT VERSION()").await?.try_get(0)?;
    let idle = match version.contains("MariaDB") {
        true => "idle_transaction_timeout",
        false => "wait_timeout",
    };
    let sql = format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET SESSION innodb_lock_wait_timeout = {}, SESSION {idle} = {}, \
         SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
        LOCK_TIMEOUT.as_secs(),
        IDLE_TRANSACTION_MAX.as_secs(),
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(drop)
}

/// See [`Own::write`](super::Own).
pub(super) async fn write(
    connection: &mut MySqlConnection,
    sends: &[Send],
    plan: &Plan,
) -> sqlx::Result<Option<Written>> {
    let mut sql = String::from("START TRANSACTION; SELECT epoch FROM cluster");
    if !plan.groups.is_empty() {
        lock_groups(&mut sql, plan);
        if !plan.members.is_empty() {
            count_members(&mut sql, plan);
        }
    }
    raise_heads(&mut sql, plan);
    // One for each statement; beginning and raising answer no rows.
    let mut results = run(connection, sql).await?.into_iter().skip(1);
    let epoch = first(results.next().as_deref())?;
    if !plan.groups.is_empty() && !groups_hold(&mut results, plan)? {
        return Ok(None);
    }
    let mut heads = HashMap::with_capacity(plan.increments.len());
    for row in results.nth(1).unwrap_or_default() {
        if let Some(owner) = Owner::from_columns(row.try_get(0)?, row.try_get(1)?) {
            heads.insert(owner, Seq(row.try_get(2)?));
        }
    }
    insert(connection, sends, plan, &heads).await?;
    Ok(Some(Written { epoch, heads }))
}

fn lock_groups(sql: &mut String, plan: &Plan) {
    sql.push_str("; SELECT id, type, version FROM `group` WHERE id IN (");
    list(sql, plan.groups.keys(), |sql, id| {
        push(sql, format_args!("{}", id.get()))
    });
    sql.push_str(") ORDER BY id FOR UPDATE");
}

fn count_members(sql: &mut String, plan: &Plan) {
    sql.push_str("; SELECT COUNT(*) FROM group_member WHERE (group_id, user_id) IN (");
    list(sql, plan.members.iter(), |sql, (group, user)| {
        push(sql, format_args!("({},{})", group.get(), user.get()));
    });
    sql.push(')');
}

/// Raises the heads in the order of their keys. Their rows are locked from here to the commit, which
/// is what I1 rests on; so what is read after that is what this transaction has made of them.
fn raise_heads(sql: &mut String, plan: &Plan) {
    sql.push_str("; INSERT INTO timeline_head (owner_type, owner_id, seq) VALUES ");
    list(sql, plan.increments.iter(), |sql, (owner, by)| {
        push(sql, format_args!("({},{},{by})", owner.kind(), owner.id()));
    });
    sql.push_str(" ON DUPLICATE KEY UPDATE seq = seq + VALUES(seq)");
    sql.push_str("; SELECT owner_type, owner_id, seq FROM timeline_head WHERE 0");
    for kind in [
        Owner::User(Default::default()).kind(),
        Owner::Group(Default::default()).kind(),
    ] {
        let mut owners = plan
            .increments
            .keys()
            .filter(|owner| owner.kind() == kind)
            .peekable();
        if owners.peek().is_some() {
            push(
                sql,
                format_args!(" OR (owner_type = {kind} AND owner_id IN ("),
            );
            list(sql, owners, |sql, owner| {
                push(sql, format_args!("{}", owner.id()))
            });
            sql.push_str("))");
        }
    }
}

/// Whether the groups that were locked, and their members, are as planned.
fn groups_hold(
    results: &mut impl Iterator<Item = Vec<MySqlRow>>,
    plan: &Plan,
) -> sqlx::Result<bool> {
    let found = results.next().unwrap_or_default();
    let found = found
        .iter()
        .map(|row| Ok((GroupId(row.try_get(0)?), row.try_get(1)?, row.try_get(2)?)));
    if !plan.holds(&found.collect::<sqlx::Result<Vec<_>>>()?) {
        return Ok(false);
    }
    let members = plan.members.len() as i64;
    Ok(members == 0 || first::<i64>(results.next().as_deref())? == members)
}

async fn insert(
    connection: &mut MySqlConnection,
    sends: &[Send],
    plan: &Plan,
    heads: &HashMap<Owner, Seq>,
) -> sqlx::Result<()> {
    const MESSAGES: &str = "INSERT INTO message (id, sender_type, sender_id, sender_device_id, \
         receiver_type, receiver_id, to_user_ids, type, content, send_time, status, \
         client_message_id, digest) VALUES ";

    let mut sql = String::from(MESSAGES);
    for send in sends {
        if sql.len() >= PACKET_BYTES {
            run(
                connection,
                std::mem::replace(&mut sql, String::from(MESSAGES)),
            )
            .await?;
        }
        if sql.len() > MESSAGES.len() {
            sql.push(',');
        }
        push_message(&mut sql, &send.row);
    }
    sql.push_str("; INSERT INTO timeline_entry (owner_type, owner_id, seq, message_id) VALUES ");
    list(&mut sql, plan.entries(sends), |sql, entry| {
        let head = heads.get(&entry.owner).copied().unwrap_or_default();
        let (owner, seq) = (entry.owner, head.get() - entry.back);
        let (kind, id, message) = (owner.kind(), owner.id(), entry.message.get());
        push(sql, format_args!("({kind},{id},{seq},{message})"));
    });
    push_events(&mut sql, sends);
    run(connection, sql).await.map(drop)
}

/// What is written beside the messages, if anything is.
fn push_events(sql: &mut String, sends: &[Send]) {
    let (events, checks) = beside(sends);
    if !events.is_empty() {
        sql.push_str(
            "; INSERT INTO outbox (kind, owner_id, message_id, device_id, created_at) VALUES ",
        );
        list(sql, events.iter(), |sql, event| {
            let (kind, owner, message) = (event.kind.column(), event.owner, event.message.get());
            let (device, at) = (event.device, event.created_at);
            push(
                sql,
                format_args!("({kind},{owner},{message},{device},{at})"),
            );
        });
    }
    if !checks.is_empty() {
        sql.push_str("; INSERT INTO undelivered_check (due_at, message_id) VALUES ");
        list(sql, checks.iter(), |sql, check| {
            push(sql, format_args!("({},{})", check.due_at, check.message_id));
        });
    }
}

fn push_message(sql: &mut String, row: &Row) {
    push(
        sql,
        format_args!(
            "({},{},{},{},{},{},",
            row.id,
            row.sender_type,
            row.sender_id,
            row.sender_device_id,
            row.receiver_type,
            row.receiver_id
        ),
    );
    push_bytes(sql, &row.to_user_ids);
    push(sql, format_args!(",{},", row.r#type));
    push_bytes(sql, &row.content);
    push(sql, format_args!(",{},{},", row.send_time, row.status));
    match &row.client_message_id {
        Some(id) => push_bytes(sql, id),
        None => sql.push_str("NULL"),
    }
    sql.push(',');
    push_bytes(sql, &row.digest);
    sql.push(')');
}

/// A hexadecimal literal, which is a binary string (<https://mariadb.com/kb/en/hexadecimal-literals/>).
fn push_bytes(sql: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    sql.reserve(2 * bytes.len() + 3);
    sql.push_str("x'");
    for byte in bytes {
        sql.push(DIGITS[usize::from(byte >> 4)].into());
        sql.push(DIGITS[usize::from(byte & 15)].into());
    }
    sql.push('\'');
}

fn push(sql: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = sql.write_fmt(text);
}

/// What `push` writes of each item, with commas between.
fn list<T>(sql: &mut String, items: impl Iterator<Item = T>, mut push: impl FnMut(&mut String, T)) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            sql.push(',');
        }
        push(sql, item);
    }
}

/// Runs statements in one round trip; the rows of each.
async fn run(connection: &mut MySqlConnection, sql: String) -> sqlx::Result<Vec<Vec<MySqlRow>>> {
    let mut stream = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(connection);
    let (mut results, mut rows) = (Vec::new(), Vec::new());
    while let Some(step) = stream.try_next().await? {
        match step {
            Either::Left(_) => results.push(std::mem::take(&mut rows)),
            Either::Right(row) => rows.push(row),
        }
    }
    Ok(results)
}

/// The number that a statement answers.
fn first<T>(rows: Option<&[MySqlRow]>) -> sqlx::Result<T>
where
    T: for<'r> sqlx::Decode<'r, sqlx::MySql> + sqlx::Type<sqlx::MySql>,
{
    let row = rows
        .and_then(<[MySqlRow]>::first)
        .ok_or(sqlx::Error::RowNotFound)?;
    row.try_get(0)
}
