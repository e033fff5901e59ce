//! Where the pushes of one feed are written for one session, and what is noticed on the way.

use bytes::BytesMut;

use crate::{
    delivery::{
        push::{Mark, Push},
        topic::Topic,
    },
    gateway::frame::Framing,
    id::{DeviceId, GroupId, MessageId, Seq, UserId},
    limits::WRITE_BUFFER_BYTES_MAX,
    telemetry::Pushed,
};

/// Writes pushes as frames.
pub(super) struct Outlet<'a> {
    pub(super) reader: UserId,
    pub(super) device: DeviceId,
    pub(super) topic: Topic,
    pub(super) framing: &'a Framing,
    pub(super) out: &'a mut BytesMut,
    /// Changes of memberships up to this position of the user's timeline are known.
    pub(super) covered: Seq,
    pub(super) noticed: Noticed,
}

/// What the pushes said about the large groups of the reader.
#[derive(Debug, Default)]
pub(super) struct Noticed {
    /// He was added to some, or removed.
    pub(super) memberships_changed: bool,
    /// To which he was added, and by which message of theirs.
    pub(super) joins: Vec<(GroupId, MessageId)>,
    /// He is no member any more of the group whose feed it is.
    pub(super) has_left: bool,
}

impl Outlet<'_> {
    /// Writes one push; false when it was the last for now.
    pub(super) fn put(&mut self, push: &Push) -> bool {
        let encoded = push.encode(self.reader);
        self.framing.put_pieces(&encoded.pieces(), self.out);
        if let Some(cause) = push.template.cause() {
            cause.pushed(Pushed {
                user: self.reader.get(),
                device: self.device.get(),
                topic: self.topic,
                seq: push.seq.get(),
            });
        }
        self.notice(push);
        !self.noticed.has_left && self.out.len() < WRITE_BUFFER_BYTES_MAX
    }

    fn notice(&mut self, push: &Push) {
        // What is ephemeral bears seq 0 and changes nothing.
        let is_news = push.seq > self.covered;
        match push.mark() {
            Mark::Joined { group, event } if is_news => {
                self.noticed.memberships_changed = true;
                self.noticed.joins.push((group, event));
            }
            Mark::Removed if is_news => self.noticed.memberships_changed = true,
            Mark::Left(user) if user == self.reader && push.seq != Seq::ZERO => {
                self.noticed.has_left = true;
            }
            Mark::Joined { .. } | Mark::Removed | Mark::Left(_) | Mark::None => {}
        }
    }
}
