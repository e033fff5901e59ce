//! Message ids, taken from the database in blocks.

use std::ops::Range;

use crate::{
    id::MessageId,
    limits::MESSAGE_ID_BLOCK,
    store::{self, Outcome, Store},
};

/// What is left of the block in use.
#[derive(Debug, Default)]
pub(super) struct MessageIds {
    left: Range<i64>,
}

impl MessageIds {
    /// The ids that the next `count` messages get, should they be stored: a new block is taken where
    /// the old one has too few. They stay in the block until they are [used](Self::use_up).
    pub(super) async fn peek(&mut self, store: &Store, count: usize) -> Outcome<Vec<MessageId>> {
        if self.left.end - self.left.start < count as i64 {
            self.left = store::id_block::take(store, "message", MESSAGE_ID_BLOCK).await?;
        }
        Ok(self.left.clone().take(count).map(MessageId).collect())
    }

    /// Takes ids out of the block that were [seen](Self::peek) before.
    pub(super) fn use_up(&mut self, count: usize) {
        if count > 0 {
            self.left.nth(count - 1);
        }
    }

    /// Forgets the block: after a restore it may be handed out again.
    pub(super) fn forget(&mut self) {
        self.left = 0..0;
    }
}
