//! What goes over the bridge as bytes: `proto/bridge.proto`, written and read. A message is copied
//! as it was encoded for devices, and never decoded here.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{Message as _, encoding::encode_varint};

use super::News;
use crate::{
    delivery::{
        push::{Mark, Push, Template},
        topic::Topic,
    },
    id::{DeviceId, GroupId, MessageId, Seq, UserId},
    pb::bridge::{self, Frame, frame, news},
    telemetry::{Cause, trace_context::Trace},
};

/// `Frame.instance`, eight bytes.
const INSTANCE_KEY: u8 = (1 << 3) | 1;
/// `Frame.message`, length-delimited.
const MESSAGE_KEY: u8 = (15 << 3) | 2;
/// Bytes around a message, at most, without the texts of its cause: thirteen fields of a key and a
/// varint, and a mark with two.
pub(super) const ENVELOPE_BYTES_MAX: usize = 16 * 11;
/// The highest `Frame.must_know` that this version knows.
const KNOWN: u32 = 0;
/// Past every position: clients keep them in doubles.
const SEQ_END: i64 = 1 << 53;

/// Who writes frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub(super) cluster: u64,
    pub(super) instance: u64,
}

/// What a frame says.
#[derive(Debug)]
pub(super) enum Content {
    /// An entry or an ephemeral message, and what must be had before it.
    Push(Push, Seq),
    /// A timeline has come so far; what stands on it is in the database.
    Head(Seq),
    News(News),
}

/// Why a frame is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It comes from an instance on another database.
    Foreign,
    /// It is none, or says what cannot be, or what only later versions know.
    Garbage,
}

/// Whether `bytes` were written by `instance`, which need not read them.
pub(super) fn is_of(bytes: &[u8], instance: u64) -> bool {
    let id = bytes
        .strip_prefix(&[INSTANCE_KEY])
        .and_then(<[u8]>::first_chunk);
    id.is_some_and(|id| u64::from_le_bytes(*id) == instance)
}

/// Writes an entry or an ephemeral message.
pub(super) fn put_push(out: &mut BytesMut, by: Writer, push: &Push, after: Seq) {
    let template = &push.template;
    let (request_id, trace) = cause_out(template.cause());
    let cause_len = request_id.len() + trace.len();
    let head = Frame {
        instance: by.instance,
        cluster: by.cluster,
        seq: push.seq.get(),
        origin: push.origin().get(),
        is_for_many: template.is_for_many(),
        after: after.get(),
        mark: mark_out(push.mark()),
        request_id,
        trace,
        ..Default::default()
    };
    let message = template.message();
    out.reserve(ENVELOPE_BYTES_MAX + cause_len + message.len());
    head.encode_raw(out);
    out.put_u8(MESSAGE_KEY);
    encode_varint(message.len() as u64, out);
    out.put_slice(message);
}

/// Writes how far a timeline has come.
pub(super) fn put_head(out: &mut BytesMut, by: Writer, seq: Seq) {
    let frame = Frame {
        instance: by.instance,
        cluster: by.cluster,
        seq: seq.get(),
        ..Default::default()
    };
    out.reserve(frame.encoded_len());
    frame.encode_raw(out);
}

/// Writes news.
pub(super) fn put_news(out: &mut BytesMut, by: Writer, news: &News) {
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
        News::SignedOut(user) => news::News::SignedOut(user.get()),
        News::Profile(user) => news::News::Profile(user.get()),
        News::Group { group, removed } => news::News::Group(bridge::Group {
            group: group.get(),
            removed: removed.map_or(0, UserId::get),
        }),
        News::HintsLost => news::News::HintsLost(true),
    };
    let frame = Frame {
        instance: by.instance,
        cluster: by.cluster,
        news: Some(bridge::News { news: Some(news) }),
        ..Default::default()
    };
    out.reserve(frame.encoded_len());
    frame.encode_raw(out);
}

/// Reads a frame of `cluster` that came on the channel of `topic`, or of news where that is `None`.
pub(super) fn read(
    bytes: Bytes,
    cluster: u64,
    topic: Option<Topic>,
) -> std::result::Result<Content, Unread> {
    let frame = Frame::decode(bytes).map_err(|_| Unread::Garbage)?;
    if frame.cluster != cluster {
        return Err(Unread::Foreign);
    }
    if let Some(news) = frame.news {
        let news = news.news.and_then(news_in);
        return news.map(Content::News).ok_or(Unread::Garbage);
    }
    let (seq, after) = (Seq(frame.seq), Seq(frame.after));
    if !topic.is_some_and(|topic| may_be(topic, seq, after)) {
        return Err(Unread::Garbage);
    }
    if frame.message.is_empty() || frame.must_know > KNOWN {
        let head = (seq > Seq::ZERO).then_some(Content::Head(seq));
        return head.ok_or(Unread::Garbage);
    }
    // A copy: the original keeps alive whatever else was read with it.
    let message = frame.message.to_vec().into_boxed_slice();
    let mark = mark_in(frame.mark);
    let cause = Cause::received(frame.request_id, &frame.trace);
    let template = Template::received(DeviceId(frame.origin), mark, frame.is_for_many, message)
        .caused_by(cause);
    let push = Push {
        seq,
        template: template.into(),
    };
    Ok(Content::Push(push, after))
}

/// Whether an entry `seq` on `topic`, or an ephemeral message behind `after`, can be at all: a feed
/// that was told of another would wait for ever.
fn may_be(topic: Topic, seq: Seq, after: Seq) -> bool {
    let is_seq = |seq: Seq| (0..SEQ_END).contains(&seq.get());
    let has_seq = topic.owner().is_some() || seq == Seq::ZERO;
    let has_after = matches!(topic, Topic::Group(_)) || after == Seq::ZERO;
    is_seq(seq) && is_seq(after) && has_seq && has_after
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
        news::News::SignedOut(user) => News::SignedOut(UserId(user)),
        news::News::Profile(user) => News::Profile(UserId(user)),
        news::News::Group(changed) => News::Group {
            group: GroupId(changed.group),
            removed: (changed.removed != 0).then_some(UserId(changed.removed)),
        },
        news::News::HintsLost(_) => News::HintsLost,
    })
}

/// The two fields that tell of a cause; empty for none, and then nothing of them is written.
fn cause_out(cause: Option<&Cause>) -> (String, Bytes) {
    let Some(cause) = cause else {
        return Default::default();
    };
    let trace = cause.trace().map(Trace::to_bytes);
    let trace = trace.map(|bytes| Bytes::copy_from_slice(&bytes));
    (cause.request_id().to_owned(), trace.unwrap_or_default())
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
    use crate::id::RoomId;

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
            numbers in (any::<u64>(), 0..SEQ_END, any::<i64>(), 0..SEQ_END),
            is_for_many in any::<bool>(),
            mark in a_mark(),
        ) {
            let (instance, seq, origin, after) = numbers;
            let by = Writer { cluster: 3, instance };
            let topic = Topic::Group(GroupId(1));
            let template = Template::received(
                DeviceId(origin), mark, is_for_many, message.clone().into(),
            );
            let push = Push { seq: Seq(seq), template: template.into() };
            let mut out = BytesMut::new();
            put_push(&mut out, by, &push, Seq(after));
            prop_assert!(out.len() <= ENVELOPE_BYTES_MAX + message.len());
            prop_assert_eq!(is_of(&out, instance), instance != 0);
            prop_assert!(!is_of(&out, instance ^ 1));
            let bytes = out.freeze();
            prop_assert_eq!(read(bytes.clone(), 4, Some(topic)).err(), Some(Unread::Foreign));
            let Ok(Content::Push(came, came_after)) = read(bytes, 3, Some(topic)) else {
                return Err(TestCaseError::fail("no push"));
            };
            prop_assert_eq!((came.seq, came_after), (push.seq, Seq(after)));
            prop_assert_eq!(came.origin(), push.origin());
            prop_assert_eq!(came.mark(), mark);
            prop_assert!(came.template.cause().is_none());
            let reader = UserId(7);
            prop_assert_eq!(
                came.encode(reader).pieces().concat(),
                push.encode(reader).pieces().concat()
            );
        }

        #[test]
        fn news_come_out_as_they_went_in(instance in 1..=u64::MAX, news in some_news()) {
            let mut out = BytesMut::new();
            put_news(&mut out, Writer { cluster: 3, instance }, &news);
            prop_assert!(is_of(&out, instance));
            let bytes = out.freeze();
            prop_assert_eq!(read(bytes.clone(), 4, None).err(), Some(Unread::Foreign));
            let Ok(Content::News(came)) = read(bytes, 3, None) else {
                return Err(TestCaseError::fail("no news"));
            };
            prop_assert_eq!(came, news);
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_panics(bytes in vec(any::<u8>(), 0..200)) {
            is_of(&bytes, 1);
            let _ = read(bytes.into(), 0, Some(Topic::Everyone));
        }
    }

    /// Where nobody there wants to know it, it is left out.
    #[test]
    fn cause_comes_with_its_message() {
        let trace = Trace::from_bytes(&[7; Trace::BYTES]);
        let cause = Cause::new("order-17".into(), trace);
        let template = Template::received(DeviceId(1), Mark::None, false, vec![1; 10].into());
        let push = Push {
            seq: Seq(1),
            template: template.caused_by(cause).into(),
        };
        let by = Writer {
            cluster: 1,
            instance: 2,
        };
        let mut out = BytesMut::new();
        put_push(&mut out, by, &push, Seq::ZERO);
        let came = || match read(out.clone().freeze(), 1, Some(USER)) {
            Ok(Content::Push(push, _)) => push,
            other => panic!("{other:?}"),
        };
        assert!(came().template.cause().is_none());
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let came = came();
            let cause = came.template.cause().unwrap();
            assert_eq!((cause.request_id(), cause.trace()), ("order-17", trace));
            assert_eq!(came.encode(UserId(1)).pieces()[1], [1; 10]);
        });
    }

    const GROUP: Topic = Topic::Group(GroupId(1));
    const USER: Topic = Topic::User(UserId(1));

    fn read_numbers(topic: Topic, seq: i64, after: i64) -> std::result::Result<Content, Unread> {
        let template = Template::received(DeviceId(1), Mark::None, false, vec![1].into());
        let push = Push {
            seq: Seq(seq),
            template: template.into(),
        };
        let by = Writer {
            cluster: 1,
            instance: 2,
        };
        let mut out = BytesMut::new();
        put_push(&mut out, by, &push, Seq(after));
        read(out.freeze(), by.cluster, Some(topic))
    }

    #[test]
    fn position_that_cannot_be_is_refused() {
        let room = Topic::Room(RoomId(1));
        for (topic, seq, after) in [(USER, 1, 0), (GROUP, 1, 0), (GROUP, 0, 5), (room, 0, 0)] {
            assert!(read_numbers(topic, seq, after).is_ok());
        }
        for (topic, seq, after) in [
            (room, 1, 0),
            (room, 0, 1),
            (Topic::Everyone, 1, 0),
            (USER, 1, 1),
            (USER, -1, 0),
            (GROUP, 0, -1),
            (USER, i64::MAX, 0),
            (GROUP, 0, SEQ_END),
        ] {
            let read = read_numbers(topic, seq, after);
            assert_eq!(read.err(), Some(Unread::Garbage), "{topic:?} {seq} {after}");
        }
    }

    /// So the database decides what a later version means.
    #[test]
    fn of_an_entry_with_what_must_be_known_and_is_not_the_position_is_taken() {
        let of = |seq, must_know, message: &[u8]| {
            let frame = Frame {
                seq,
                must_know,
                message: message.to_vec().into(),
                ..Default::default()
            };
            read(frame.encode_to_vec().into(), 0, Some(USER))
        };
        assert!(matches!(of(7, KNOWN, b"x"), Ok(Content::Push(..))));
        assert!(matches!(of(7, KNOWN + 1, b"x"), Ok(Content::Head(Seq(7)))));
        assert!(matches!(of(7, KNOWN, b""), Ok(Content::Head(Seq(7)))));
        assert!(matches!(of(0, KNOWN + 1, b"x"), Err(Unread::Garbage)));
    }
}
