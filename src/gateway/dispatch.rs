//! Matches a package with what answers it: decode, call, encode. What takes time runs as a future
//! that knows nothing of the connection; its outcome comes back as [`Done`].

use std::{net::IpAddr, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use prost::bytes::Bytes;
use tracing::Instrument as _;

use super::{Gateway, link::Link};
use crate::{
    delivery::{handle::Handle, router::Lease, topic::Topic},
    error::{Code, Error, Result},
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
    /// A message is in line; its receipt is answered later.
    Accepted(Head, Receipt),
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
    /// answer names.
    pub(super) fn error(self, error: &Error) -> pb::Output {
        const INTERNAL: i32 = tonic_internal();
        let (code, message) = match error.code() {
            Some(code) => (code.number(), error.public_message().to_owned()),
            None => {
                let id = format!("{:016x}", rand::random::<u64>());
                tracing::error!(request_id = %id, %error, trace = ?error.trace(), "a package failed");
                (INTERNAL, format!("internal error, logged as {id}"))
            }
        };
        pb::Output {
            r#type: self.r#type,
            request_id: self.request_id,
            code,
            message,
            ..Default::default()
        }
    }
}

/// `google.rpc.Code.INTERNAL`.
const fn tonic_internal() -> i32 {
    13
}

/// Decodes a package's data.
///
/// # Errors
/// 10001 saying what cannot be read.
pub(super) fn decode<M: prost::Message + Default>(data: Bytes) -> Result<M> {
    M::decode(data).map_err(|error| Error::bad_request("data", error))
}

/// The first sign-in of a connection.
pub(super) fn sign_in(
    gateway: &Arc<Gateway>,
    client: IpAddr,
    input: pb::Input,
) -> BoxFuture<'static, Done> {
    let head = Head::of(&input);
    let gateway = Arc::clone(gateway);
    let span = tracing::info_span!("sign_in", request_id = head.request_id, %client);
    async move {
        let signed = async {
            let sign_in: pb::SignInInput =
                decode(input.data).map_err(|_| Error::sign_in_again())?;
            let (user, device) = (UserId(sign_in.user_id), DeviceId(sign_in.device_id));
            Link::sign_in(&gateway, user, device, &sign_in.token).await
        };
        match signed.await {
            Ok(link) => Done::SignedIn(head, link),
            Err(error) => Done::SignInRefused(head.error(&error)),
        }
    }
    .instrument(span)
    .boxed()
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
    async move {
        let checked = async {
            let sign_in: pb::SignInInput =
                decode(input.data).map_err(|_| Error::sign_in_again())?;
            if (sign_in.user_id, sign_in.device_id) != (user.get(), device.get()) {
                return Err(Error::sign_in_again());
            }
            let renewed = gateway.authenticator.renew(&handle, user, &sign_in.token);
            within_deadline(renewed).await
        };
        match checked.await {
            Ok(()) => Done::Answered(head.empty()),
            Err(error) if error.is(Code::TryAgain) => Done::Answered(head.error(&error)),
            Err(error) => Done::SignInRefused(head.error(&error)),
        }
    }
    .boxed()
}

/// One page.
pub(super) fn sync(
    gateway: &Arc<Gateway>,
    user: UserId,
    head: Head,
    asked: pb::SyncInput,
) -> BoxFuture<'static, Done> {
    let gateway = Arc::clone(gateway);
    let span = tracing::info_span!("sync", request_id = head.request_id, %user);
    async move {
        let Gateway { pages, acks, .. } = &*gateway;
        match sync::sync(pages, acks, user, &asked).await {
            Ok(Synced { output, ends }) => {
                gateway.metrics.sync_pages.inc();
                Done::Synced(head.ok(&output), Box::new(ends))
            }
            Err(error) => Done::SyncFailed(head.error(&error)),
        }
    }
    .instrument(span)
    .boxed()
}

/// Another room, or none.
pub(super) fn subscribe_room(gateway: &Arc<Gateway>, input: pb::Input) -> BoxFuture<'static, Done> {
    let head = Head::of(&input);
    let gateway = Arc::clone(gateway);
    async move {
        let found = async {
            let asked: pb::SubscribeRoomInput = decode(input.data)?;
            match asked.room_id {
                0 => Ok(None),
                ..0 => Err(Error::bad_request("room_id", "must not be negative")),
                room => {
                    let topic = Topic::Room(RoomId(room));
                    Ok(Some(gateway.router.lease(topic).await))
                }
            }
        };
        match found.await {
            Ok(lease) => Done::RoomFound(head, lease),
            Err(error) => Done::Answered(head.error(&error)),
        }
    }
    .boxed()
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
    let span = tracing::info_span!("send", request_id = head.request_id, user = %from.user, device = %from.device);
    async move {
        let accepted = async {
            let request: pb::SendMessageReq = decode(input.data)?;
            messages.accept(Author::User(from), request).await
        };
        match accepted.await {
            Ok(receipt) => Done::Accepted(head, receipt),
            Err(error) => Done::Answered(head.error(&error)),
        }
    }
    .instrument(span)
    .boxed()
}
