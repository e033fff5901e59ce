//! The bridge of an instance that is alone: there is nobody to tell.

use futures_util::future::{BoxFuture, ready};

use super::{Bridge, News};
use crate::{
    delivery::{push::Push, topic::Topic},
    id::Seq,
};

/// Carries nothing anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Bridge for InProcess {
    fn subscribe(&self, _topics: &[Topic]) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }

    fn unsubscribe(&self, _topic: Topic) {}

    fn publish(&self, _topic: Topic, _push: &Push, _after: Seq) {}

    fn has_room(&self) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }

    fn tell(&self, _news: News) {}

    fn is_alone(&self) -> bool {
        true
    }
}
