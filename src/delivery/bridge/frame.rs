//! What goes over the bridge as bytes: `proto/bridge.proto`, written and read. A message is copied
//! as it was encoded for devices, and never decoded here.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{Message as _, encoding::encode_varint};

use super::News;
use crate::{
    delivery::push::{Mark, Push, Template},
    id::{DeviceId, GroupId, MessageId, Seq, UserId},
    pb::bridge::{self, Frame, frame, news},
};

/// `Frame.instance`, eight bytes.
const INSTANCE_KEY: u8 = (1 << 3) | 1;
/// `Frame.message`, length-delimited.
const MESSAGE_KEY: u8 = (15 << 3) | 2;
/// Bytes around a message, at most: nine fields of a key and a varint, and a mark with two.
pub(super) const ENVELOPE_BYTES_MAX: usize = 12 * 11;

/// What a frame says.
#[derive(Debug)]
pub(super) enum Content {
    /// An entry or an ephemeral message, and what must be had before it.
    Push(Push, Seq),
    News(News),
}

/// Whether `bytes` were written by `instance`, which need not read them.
pub(super) fn is_of(bytes: &[u8], instance: u64) -> bool {
    let id = bytes
        .strip_prefix(&[INSTANCE_KEY])
        .and_then(<[u8]>::first_chunk);
    id.is_some_and(|id| u64::from_le_bytes(*id) == instance)
}

/// Writes an entry or an ephemeral message.
pub(super) fn put_push(out: &mut BytesMut, instance: u64, push: &Push, after: Seq) {
    let template = &push.template;
    let head = Frame {
        instance,
        seq: push.seq.get(),
        origin: push.origin().get(),
        is_for_many: template.is_for_many(),
        after: after.get(),
        mark: mark_out(push.mark()),
        ..Default::default()
    };
    let message = template.message();
    out.reserve(ENVELOPE_BYTES_MAX + message.len());
    head.encode_raw(out);
    out.put_u8(MESSAGE_KEY);
    encode_varint(message.len() as u64, out);
    out.put_slice(message);
}

/// Writes news.
pub(super) fn put_news(out: &mut BytesMut, instance: u64, news: &News) {
    let news = match news {
        News::Revoked(devices) => news::News::Revoked(bridge::Revoked {
            devices: devices.iter().map(|device| device.get()).collect(),
        }),
        News::SignedIn {
            user,
            device,
            generation,
        } => news::News::SignedIn(bridge::SignedIn {
            user: user.get(),
            device: device.get(),
            generation: *generation,
        }),
        News::Profile(user) => news::News::Profile(user.get()),
        News::Group { group, removed } => news::News::Group(bridge::Group {
            group: group.get(),
            removed: removed.map_or(0, UserId::get),
        }),
        News::HintsLost => news::News::HintsLost(true),
    };
    let frame = Frame {
        instance,
        news: Some(bridge::News { news: Some(news) }),
        ..Default::default()
    };
    out.reserve(frame.encoded_len());
    frame.encode_raw(out);
}

/// Reads a frame; `None` when it is none, or of a kind that only later versions know.
pub(super) fn read(bytes: Bytes) -> Option<Content> {
    let frame = Frame::decode(bytes).ok()?;
    if let Some(news) = frame.news {
        return news_in(news.news?).map(Content::News);
    }
    if frame.message.is_empty() {
        return None;
    }
    // A copy: the original keeps alive whatever else was read with it.
    let message = frame.message.to_vec().into_boxed_slice();
    let mark = mark_in(frame.mark);
    let template = Template::received(DeviceId(frame.origin), mark, frame.is_for_many, message);
    let push = Push {
        seq: Seq(frame.seq),
        template: template.into(),
    };
    Some(Content::Push(push, Seq(frame.after)))
}

fn news_in(news: news::News) -> Option<News> {
    Some(match news {
        news::News::Revoked(revoked) => {
            News::Revoked(revoked.devices.into_iter().map(DeviceId).collect())
        }
        news::News::SignedIn(signed_in) => News::SignedIn {
            user: UserId(signed_in.user),
            device: DeviceId(signed_in.device),
            generation: signed_in.generation,
        },
        news::News::Profile(user) => News::Profile(UserId(user)),
        news::News::Group(changed) => News::Group {
            group: GroupId(changed.group),
            removed: (changed.removed != 0).then_some(UserId(changed.removed)),
        },
        news::News::HintsLost(_) => News::HintsLost,
    })
}

fn mark_out(mark: Mark) -> Option<frame::Mark> {
    Some(match mark {
        Mark::None => return None,
        Mark::Joined { group, event } => frame::Mark::Joined(bridge::Joined {
            group: group.get(),
            event: event.get(),
        }),
        Mark::Removed => frame::Mark::Removed(true),
        Mark::Left(user) => frame::Mark::Left(user.get()),
    })
}

fn mark_in(mark: Option<frame::Mark>) -> Mark {
    match mark {
        None => Mark::None,
        Some(frame::Mark::Joined(joined)) => Mark::Joined {
            group: GroupId(joined.group),
            event: MessageId(joined.event),
        },
        Some(frame::Mark::Removed(_)) => Mark::Removed,
        Some(frame::Mark::Left(user)) => Mark::Left(UserId(user)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn a_mark() -> impl Strategy<Value = Mark> {
        prop_oneof![
            Just(Mark::None),
            Just(Mark::Removed),
            any::<i64>().prop_map(|user| Mark::Left(UserId(user))),
            any::<(i64, i64)>().prop_map(|(group, event)| Mark::Joined {
                group: GroupId(group),
                event: MessageId(event),
            }),
        ]
    }

    fn some_news() -> impl Strategy<Value = News> {
        prop_oneof![
            vec(any::<i64>(), 0..5)
                .prop_map(|ids| News::Revoked(ids.into_iter().map(DeviceId).collect())),
            any::<(i64, i64, i64)>().prop_map(|(user, device, generation)| News::SignedIn {
                user: UserId(user),
                device: DeviceId(device),
                generation,
            }),
            any::<i64>().prop_map(|user| News::Profile(UserId(user))),
            (any::<i64>(), 0..3_i64).prop_map(|(group, user)| News::Group {
                group: GroupId(group),
                removed: (user != 0).then_some(UserId(user)),
            }),
            Just(News::HintsLost),
        ]
    }

    proptest! {
        #[test]
        fn a_push_comes_out_as_it_went_in(
            message in vec(any::<u8>(), 1..300),
            numbers in any::<(u64, i64, i64, i64)>(),
            is_for_many in any::<bool>(),
            mark in a_mark(),
        ) {
            let (instance, seq, origin, after) = numbers;
            let template = Template::received(
                DeviceId(origin), mark, is_for_many, message.clone().into(),
            );
            let push = Push { seq: Seq(seq), template: template.into() };
            let mut out = BytesMut::new();
            put_push(&mut out, instance, &push, Seq(after));
            prop_assert!(out.len() <= ENVELOPE_BYTES_MAX + message.len());
            prop_assert_eq!(is_of(&out, instance), instance != 0);
            prop_assert!(!is_of(&out, instance ^ 1));
            let Some(Content::Push(came, came_after)) = read(out.freeze()) else {
                return Err(TestCaseError::fail("no push"));
            };
            prop_assert_eq!((came.seq, came_after), (push.seq, Seq(after)));
            prop_assert_eq!(came.origin(), push.origin());
            prop_assert_eq!(came.mark(), mark);
            let reader = UserId(7);
            prop_assert_eq!(
                came.encode(reader).pieces().concat(),
                push.encode(reader).pieces().concat()
            );
        }

        #[test]
        fn news_come_out_as_they_went_in(instance in 1..=u64::MAX, news in some_news()) {
            let mut out = BytesMut::new();
            put_news(&mut out, instance, &news);
            prop_assert!(is_of(&out, instance));
            let Some(Content::News(came)) = read(out.freeze()) else {
                return Err(TestCaseError::fail("no news"));
            };
            prop_assert_eq!(came, news);
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_panics(bytes in vec(any::<u8>(), 0..200)) {
            is_of(&bytes, 1);
            drop(read(bytes.into()));
        }
    }
}
