//! The bridge of an instance that is alone: there is nobody to tell.

use futures_util::future::{BoxFuture, ready};

use super::Bridge;
use crate::{
    delivery::{push::Template, topic::Topic},
    error::Result,
    id::Seq,
};

/// Carries nothing anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Bridge for InProcess {
    fn subscribe(&self, _topic: Topic) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn unsubscribe(&self, _topic: Topic) {}

    fn publish(&self, _topic: Topic, _seq: Seq, _message: &Template) {}

    fn is_alone(&self) -> bool {
        true
    }
}
