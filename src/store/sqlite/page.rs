//! Reading a page of a timeline on SQLite, row by row, without crossing a thread.

use rusqlite::{Connection, params};

use crate::{
    id::{Owner, Seq},
    store::{message, timeline::Row},
};

/// See [`timeline::page`](crate::store::timeline::page).
pub(super) fn read(
    connection: &Connection,
    owner: Owner,
    after: Seq,
    rows_max: usize,
    bytes_max: usize,
) -> rusqlite::Result<(Vec<Row>, bool)> {
    let mut select = connection.prepare_cached(
        "SELECT e.seq, m.id, m.sender_type, m.sender_id, m.sender_device_id, m.receiver_type, \
         m.receiver_id, m.to_user_ids, m.type, m.content, m.send_time, m.status, \
         m.client_message_id, m.digest \
         FROM timeline_entry e JOIN message m ON m.id = e.message_id \
         WHERE e.owner_type = ?1 AND e.owner_id = ?2 AND e.seq > ?3 ORDER BY e.seq",
    )?;
    let mut found = select.query(params![owner.kind(), owner.id(), after.get()])?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        bytes += row.get_ref(9)?.as_blob()?.len();
        if rows.len() == rows_max || (bytes > bytes_max && !rows.is_empty()) {
            return Ok((rows, true));
        }
        rows.push(Row {
            seq: Seq(row.get(0)?),
            message: from_columns(row, 1)?,
        });
    }
    Ok((rows, false))
}

/// The columns of a message from `at` on, in the order of the entity.
fn from_columns(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<message::Row> {
    Ok(message::Row {
        id: row.get(at)?,
        sender_type: row.get(at + 1)?,
        sender_id: row.get(at + 2)?,
        sender_device_id: row.get(at + 3)?,
        receiver_type: row.get(at + 4)?,
        receiver_id: row.get(at + 5)?,
        to_user_ids: row.get(at + 6)?,
        r#type: row.get(at + 7)?,
        content: row.get(at + 8)?,
        send_time: row.get(at + 9)?,
        status: row.get(at + 10)?,
        client_message_id: row.get(at + 11)?,
        digest: row.get(at + 12)?,
    })
}
