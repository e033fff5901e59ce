//! Matches a package with what answers it: decode, call, encode. What takes time runs as a future
//! that knows nothing of the connection; its outcome comes back as [`Done`]. Each runs in a span that
//! bears the package's request id at every log level, and a panic in one ends that package and nothing else.

use std::{future::Future, net::IpAddr, panic::AssertUnwindSafe, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use prost::bytes::Bytes;
use tracing::{Instrument as _, Span, field::Empty};

use super::{Gateway, link::Link};
use crate::{
    delivery::{handle::Handle, router::Lease, topic::Topic},
    error::{Code, Error, INTERNAL, Result},
    id::{DeviceId, RoomId, UserId},
    message::{Author, Origin, Receipt},
    pb,
    store::within_deadline,
    timeline::sync::{self, Ends, Synced},
};

/// The outcome of a package.
pub(super) enum Done {
    /// The session is live.
    SignedIn(Head, Box<Link>),
    /// The sign-in was refused: answer and close.
    SignInRefused(pb::Output),
    /// A further sign-in that holds, or another answer.
    Answered(pb::Output),
    /// A page, and where it ends.
    Synced(pb::Output, Box<Ends>),
    /// The sync failed.
    SyncFailed(pb::Output),
    /// The room's feed, or no room.
    RoomFound(Head, Option<Lease>),
    /// A message is in line; its receipt is answered later, in its span.
    Accepted(Sending),
}

/// A message that waits for its commit.
pub(super) struct Sending {
    pub(super) head: Head,
    pub(super) receipt: Receipt,
    pub(super) span: Span,
}

/// What an answer takes over from its package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) r#type: i32,
    pub(super) request_id: i64,
}

impl Head {
    pub(super) const fn of(input: &pb::Input) -> Self {
        Self {
            r#type: input.r#type,
            request_id: input.request_id,
        }
    }

    pub(super) fn ok(self, message: &impl prost::Message) -> pb::Output {
        pb::Output {
            r#type: self.r#type,
            request_id: self.request_id,
            data: message.encode_to_vec().into(),
            ..Default::default()
        }
    }

    pub(super) fn empty(self) -> pb::Output {
        pb::Output {
            r#type: self.r#type,
            request_id: self.request_id,
            ..Default::default()
        }
    }

    /// The answer to what failed. An internal error is logged here, once, under an id that the
    /// answer names: the request's own need not be the only one of its kind.
    pub(super) fn error(self, error: &Error) -> pb::Output {
        match error.code() {
            Some(code) => self.refused(code.number(), error.public_message().to_owned()),
            None => {
                let logged_as = format!("{:016x}", rand::random::<u64>());
                tracing::error!(logged_as, %error, trace = ?error.trace(), "a package failed");
                self.refused(INTERNAL, format!("internal error, logged as {logged_as}"))
            }
        }
    }

    /// The answer to a package that panicked, which was logged when it did.
    fn panicked(self) -> pb::Output {
        let id = self.request_id;
        let message = format!("internal error, logged under request id {id}");
        self.refused(INTERNAL, message)
    }

    fn refused(self, code: i32, message: String) -> pb::Output {
        pb::Output {
            r#type: self.r#type,
            request_id: self.request_id,
            code,
            message,
            ..Default::default()
        }
    }
}

/// Decodes a package's data.
///
/// # Errors
/// 10001 saying what cannot be read.
pub(super) fn decode<M: prost::Message + Default>(data: Bytes) -> Result<M> {
    M::decode(data).map_err(|error| Error::bad_request("data", error))
}

/// Does the work of a package in its span; `failed` says what an answer to a failure means.
fn serve(
    span: Span,
    head: Head,
    failed: fn(pb::Output) -> Done,
    work: impl Future<Output = Result<Done>> + Send + 'static,
) -> BoxFuture<'static, Done> {
    async move {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => failed(head.error(&error)),
            Err(_panic) => failed(head.panicked()),
        }
    }
    .instrument(span)
    .boxed()
}

/// The first sign-in of a connection.
pub(super) fn sign_in(
    gateway: &Arc<Gateway>,
    client: IpAddr,
    input: pb::Input,
) -> BoxFuture<'static, Done> {
    let head = Head::of(&input);
    let gateway = Arc::clone(gateway);
    let span = tracing::error_span!(
        "sign_in",
        request_id = %head.request_id,
        %client,
        user = Empty,
        device = Empty,
    );
    serve(span, head, Done::SignInRefused, async move {
        let sign_in: pb::SignInInput = decode(input.data).map_err(|_| Error::sign_in_again())?;
        let (user, device) = (UserId(sign_in.user_id), DeviceId(sign_in.device_id));
        let span = Span::current();
        span.record("user", user.get());
        span.record("device", device.get());
        let link = Link::sign_in(&gateway, user, device, &sign_in.token).await?;
        Ok(Done::SignedIn(head, link))
    })
}

/// A further sign-in: it must be for the same user and device, with a token that holds. Where nobody
/// can say whether it does, the session goes on as it was.
pub(super) fn sign_in_again(
    gateway: &Arc<Gateway>,
    user: UserId,
    handle: Arc<Handle>,
    input: pb::Input,
) -> BoxFuture<'static, Done> {
    let head = Head::of(&input);
    let gateway = Arc::clone(gateway);
    let device = handle.device();
    let span = tracing::error_span!("sign_in_again", request_id = %head.request_id, user = user.get(), device = device.get());
    serve(span, head, Done::SignInRefused, async move {
        let sign_in: pb::SignInInput = decode(input.data).map_err(|_| Error::sign_in_again())?;
        if (sign_in.user_id, sign_in.device_id) != (user.get(), device.get()) {
            return Err(Error::sign_in_again());
        }
        let renewed = gateway.authenticator.renew(&handle, user, &sign_in.token);
        Ok(Done::Answered(match within_deadline(renewed).await {
            Ok(()) => head.empty(),
            Err(error) if error.is(Code::TryAgain) => head.error(&error),
            Err(error) => return Err(error),
        }))
    })
}

/// One page.
pub(super) fn sync(
    gateway: &Arc<Gateway>,
    from: Origin,
    head: Head,
    asked: pb::SyncInput,
) -> BoxFuture<'static, Done> {
    let gateway = Arc::clone(gateway);
    let Origin { user, device } = from;
    let span = tracing::error_span!("sync", request_id = %head.request_id, user = user.get(), device = device.get());
    serve(span, head, Done::SyncFailed, async move {
        let Gateway { pages, acks, .. } = &*gateway;
        let Synced { output, ends } = sync::sync(pages, acks, user, &asked).await?;
        gateway.metrics.sync_pages.inc();
        Ok(Done::Synced(head.ok(&output), Box::new(ends)))
    })
}

/// Another room, or none.
pub(super) fn subscribe_room(
    gateway: &Arc<Gateway>,
    from: Origin,
    input: pb::Input,
) -> BoxFuture<'static, Done> {
    let head = Head::of(&input);
    let gateway = Arc::clone(gateway);
    let Origin { user, device } = from;
    let span = tracing::error_span!("subscribe_room", request_id = %head.request_id, user = user.get(), device = device.get());
    serve(span, head, Done::Answered, async move {
        let asked: pb::SubscribeRoomInput = decode(input.data)?;
        let lease = match asked.room_id {
            0 => None,
            ..0 => return Err(Error::bad_request("room_id", "must not be negative")),
            room => {
                let topic = Topic::Room(RoomId(room));
                Some(gateway.router.lease(topic).await)
            }
        };
        Ok(Done::RoomFound(head, lease))
    })
}

/// The answer to who is in another room now: once he is known there on other instances too.
pub(super) fn enter_room(gateway: &Arc<Gateway>, head: Head) -> BoxFuture<'static, Done> {
    let gateway = Arc::clone(gateway);
    async move {
        gateway.presence.settled().await;
        Done::Answered(head.empty())
    }
    .boxed()
}

/// A message.
pub(super) fn send(
    gateway: &Arc<Gateway>,
    from: Origin,
    input: pb::Input,
) -> BoxFuture<'static, Done> {
    let head = Head::of(&input);
    let messages = Arc::clone(&gateway.messages);
    let Origin { user, device } = from;
    let span = tracing::error_span!("send", request_id = %head.request_id, user = user.get(), device = device.get());
    serve(span, head, Done::Answered, async move {
        let request: pb::SendMessageReq = decode(input.data)?;
        let receipt = messages.accept(Author::User(from), request).await?;
        let span = Span::current();
        Ok(Done::Accepted(Sending {
            head,
            receipt,
            span,
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn package_that_panics_is_answered_as_an_internal_error() {
        let head = Head {
            r#type: pb::PackageType::PtSendMessage as i32,
            request_id: 17,
        };
        let panicking = async { panic!("on purpose") };
        let done = serve(Span::none(), head, Done::Answered, panicking).await;
        let Done::Answered(answer) = done else {
            panic!("another outcome");
        };
        assert_eq!((answer.r#type, answer.request_id), (head.r#type, 17));
        assert_eq!(answer.code, INTERNAL);
        assert_eq!(answer.message, "internal error, logged under request id 17");
    }
}
