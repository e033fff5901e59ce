//! Asking the business about a message of a user, once it is known that he may send it and before it
//! is queued.

use std::time::Instant;

use bytes::Bytes;

use super::{
    content,
    send::{Draft, Messages},
};
use crate::{
    error::{Error, Result},
    limits::SEND_DEADLINE,
    store::within_deadline,
    timeline::{Appended, append},
    webhook::{BeforeSend, Verdict},
};

impl Messages {
    /// Asks about a message that came `since`, which may change its content: what makes a repeat is
    /// what the device has sent. A repeat is answered with the first result, whatever would be said of
    /// it now.
    ///
    /// # Errors
    /// 10002 where it is denied; 10004 where nobody answers in time.
    pub(super) async fn ask_in_time(
        &self,
        before_send: &BeforeSend,
        draft: &mut Draft,
        since: Instant,
    ) -> Result<Option<Appended>> {
        let deadline = since + SEND_DEADLINE;
        let asked = tokio::time::timeout_at(deadline.into(), self.ask(before_send, draft));
        let late = |_| Error::try_again("the message could not be checked in time");
        asked.await.map_err(late)?
    }

    async fn ask(&self, before_send: &BeforeSend, draft: &mut Draft) -> Result<Option<Appended>> {
        if let Some(first) = self.find_repeat(draft).await? {
            return Ok(Some(first));
        }
        let message_type = draft.message_type;
        let is_fit = |content: &Bytes| content::check_device_content(message_type, content);
        let asked = before_send.ask(&draft.message, draft.is_persist, is_fit);
        match asked.await {
            Ok(Verdict::Allow) => Ok(None),
            Ok(Verdict::Replace(content)) => {
                draft.message.content = content;
                Ok(None)
            }
            // Another attempt at it may have been stored meanwhile.
            Err(refusal) => match self.find_repeat(draft).await? {
                Some(first) => Ok(Some(first)),
                None => Err(refusal),
            },
        }
    }

    async fn find_repeat(&self, draft: &Draft) -> Result<Option<Appended>> {
        if !draft.is_persist {
            return Ok(None);
        }
        let (store, message) = (&self.options.store, &draft.message);
        within_deadline(append::find_repeat(store, message, draft.answer_owner)).await
    }
}
