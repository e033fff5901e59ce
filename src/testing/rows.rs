//! Rows of timelines and memberships, written beside the server as its transactions would write
//! them, for tests of what reads them.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{
    id::{GroupId, MessageId, Owner, Seq, UserId},
    pb,
};

/// A second connection to a server's database.
pub struct Rows(Connection);

impl Rows {
    pub fn new(connection: Connection) -> Self {
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        Self(connection)
    }

    /// All that `change` does, at once.
    pub fn transaction<T>(&self, change: impl FnOnce(&Self) -> T) -> T {
        self.0.execute_batch("BEGIN IMMEDIATE").unwrap();
        let changed = change(self);
        self.0.execute_batch("COMMIT").unwrap();
        changed
    }

    pub fn head(&self, owner: Owner) -> Seq {
        let select = "SELECT seq FROM timeline_head WHERE owner_type = ?1 AND owner_id = ?2";
        let key = params![owner.kind(), owner.id()];
        let head = self.0.query_row(select, key, |row| row.get(0)).optional();
        Seq(head.unwrap().unwrap_or_default())
    }

    /// Puts a message of its own at the end of a timeline.
    pub fn append(&self, owner: Owner, message: &pb::Message) -> Seq {
        let sender = message.sender.clone().unwrap_or_default();
        let insert = "INSERT INTO message SELECT 1 + coalesce(max(id), 0), ?1, ?2, 0, ?3, ?4, x'', \
                      ?5, ?6, 0, 1, NULL, zeroblob(32) FROM message";
        let columns = params![
            sender.sender_type,
            sender.sender_id,
            message.receiver_type,
            message.receiver_id,
            message.message_type,
            &message.message_content[..],
        ];
        self.0.execute(insert, columns).unwrap();
        let seq = self.head(owner).next();
        let (kind, id) = (owner.kind(), owner.id());
        let insert = "INSERT OR REPLACE INTO timeline_head VALUES (?1, ?2, ?3)";
        let head = params![kind, id, seq.get()];
        self.0.execute(insert, head).unwrap();
        let insert = "INSERT INTO timeline_entry SELECT ?1, ?2, ?3, max(id) FROM message";
        self.0.execute(insert, head).unwrap();
        seq
    }

    /// The message that was appended last.
    pub fn last_message(&self) -> MessageId {
        let select = "SELECT max(id) FROM message";
        MessageId(self.0.query_row(select, [], |row| row.get(0)).unwrap())
    }

    /// Makes a user a member of a large group from its head on, which is returned.
    pub fn join(&self, group: GroupId, user: UserId) -> Seq {
        let joined = self.head(Owner::Group(group));
        let insert = "INSERT INTO group_member VALUES (?1, ?2, 2, '', '', ?3, 0, 0)";
        let row = params![group.get(), user.get(), joined.get()];
        self.0.execute(insert, row).unwrap();
        joined
    }

    pub fn leave(&self, group: GroupId, user: UserId) {
        let delete = "DELETE FROM group_member WHERE group_id = ?1 AND user_id = ?2";
        let row = params![group.get(), user.get()];
        assert_eq!(self.0.execute(delete, row).unwrap(), 1);
    }
}
