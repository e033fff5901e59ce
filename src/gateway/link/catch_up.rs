//! Reading a timeline because its feed has left the session behind: one at a time, in turn, the
//! user's own first.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::FutureExt;

use super::{Link, USER_SLOT, follows::SlotKey, waiting::CatchingUp};
use crate::{
    gateway::{Gateway, frame::Framing},
    timeline::pages::Pushes,
};

/// How long a session waits before it tries again to read what it has missed.
const CATCH_UP_PAUSE: Duration = Duration::from_secs(1);

impl Link {
    /// The timeline of a slot must be read before its feed.
    pub(super) fn fall_behind(&mut self, slot: SlotKey) {
        let Some(follow) = self.follows.get_mut(slot) else {
            return;
        };
        follow.is_behind = true;
        let behind = &mut self.waiting.or_default().behind;
        if slot == USER_SLOT {
            behind.push_front(slot);
        } else {
            behind.push_back(slot);
        }
    }

    /// Begins to read the next timeline that waits for it, unless one is being read.
    pub(super) fn begin_catch_up(&mut self, gateway: &Gateway) {
        let Some(waiting) = self.waiting.get_mut() else {
            return;
        };
        while waiting.catching_up.is_none()
            && let Some(slot) = waiting.behind.pop_front()
        {
            // The slot may have been given to another feed meanwhile.
            let Some(follow) = self.follows.get(slot).filter(|f| f.is_behind) else {
                continue;
            };
            let Some(owner) = follow.owner() else {
                continue;
            };
            let (pages, after) = (Arc::clone(&gateway.pages), follow.position.seq);
            let read = async move {
                match pages.catch_up(owner, after).await {
                    Ok(pushes) if !pushes.is_empty() => pushes,
                    result => {
                        if let Err(error) = result {
                            tracing::warn!(%error, trace = ?error.trace(), ?owner, "a catch-up must wait");
                        }
                        tokio::time::sleep(CATCH_UP_PAUSE).await;
                        Pushes::default()
                    }
                }
            };
            waiting.catching_up = Some(CatchingUp {
                slot,
                read: read.boxed(),
            });
        }
    }

    /// Writes what a catch-up has brought. Returns how many messages it wrote.
    pub(in crate::gateway) fn take_caught_up(
        &mut self,
        slot: SlotKey,
        pushes: &Pushes,
        framing: &Framing,
        out: &mut BytesMut,
    ) -> u32 {
        let device = self.device();
        let Some(topic) = self.follows.topic(slot) else {
            return 0;
        };
        let mut outlet = self.outlet(topic, framing, out);
        let Some(follow) = self.follows.get_mut(slot) else {
            return 0;
        };
        follow.is_behind = false;
        let mut given = 0;
        for push in pushes.iter() {
            if follow.waits() || outlet.noticed.has_left {
                break;
            }
            if push.seq != follow.position.seq.next() {
                continue;
            }
            follow.position.seq = push.seq;
            if push.origin() != device {
                outlet.put(push);
                given += 1;
            }
        }
        let noticed = outlet.noticed;
        self.notice(slot, noticed);
        self.follows.make_ready(slot);
        given
    }
}
