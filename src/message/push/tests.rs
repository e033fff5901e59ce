//! Pushes on a real database and real feeds: who is given what, and that nobody is given it twice
//! when a push is cut off, repeated, or made several times at once.

use futures_util::future::join_all;

use super::*;
use crate::{
    delivery::{
        feed::{FollowerKey, Position},
        handle::Handle,
        router::Lease,
    },
    id::RoomId,
    testing::World,
};

/// More than two parts.
const MANY: usize = 2 * LARGE_JOB_CHUNK + 500;

fn command(data: &[u8]) -> pb::Command {
    pb::Command {
        code: 1_000,
        data: data.to_vec().into(),
    }
}

fn push(users: &[UserId], client_message_id: &str) -> pb::PushToUsersReq {
    pb::PushToUsersReq {
        user_ids: users.iter().map(|user| user.get()).collect(),
        command: Some(command(b"news")),
        is_persist: true,
        client_message_id: client_message_id.into(),
    }
}

fn code<T>(result: Result<T>) -> Option<Code> {
    result.err().and_then(|error| error.code())
}

/// How many messages there are, how many users have entries, and how many entries.
fn counts(world: &World) -> [i64; 3] {
    let connection = world.foreign_connection();
    let select = "SELECT (SELECT count(*) FROM message), count(DISTINCT owner_id), count(*) \
                  FROM timeline_entry";
    let counts = connection.query_one(select, [], |row| {
        Ok([row.get(0)?, row.get(1)?, row.get(2)?])
    });
    counts.unwrap()
}

/// Follows a topic.
struct Listener {
    lease: Lease,
    key: FollowerKey,
    position: Position,
}

const DEVICE: DeviceId = DeviceId(1);

impl Listener {
    async fn of(world: &World, topic: Topic) -> Self {
        let lease = world.sending.router.lease(topic).await;
        lease.open(Seq::ZERO);
        let (key, position) = lease.follow(Arc::new(Handle::new(DEVICE)), 0, None);
        Self {
            lease,
            key,
            position,
        }
    }

    /// How many pushes have come.
    fn heard(&mut self) -> u32 {
        let Self {
            lease,
            key,
            position,
        } = self;
        lease.read(*key, position, DEVICE, |_| true).1
    }
}

#[tokio::test]
async fn push_is_one_message_on_the_timelines_of_those_who_exist() {
    let world = World::new().await;
    let users = world.users(3).await;
    let with_others = [&users[..], &[users[0], UserId(99), users[2]]].concat();
    let pushed = world.messages.push_to_users(push(&with_others, "job"));
    let id = pushed.await.unwrap();
    for user in &users {
        let timeline = world.timeline(*user).await;
        let [row] = &timeline[..] else {
            panic!("{timeline:?}");
        };
        let message = &row.message;
        assert_eq!((row.seq, message.id), (Seq(1), id.get()));
        assert_eq!(message.sender_type, pb::SenderType::StBusiness as i16);
        assert_eq!(message.receiver_type, ReceiverType::RtUser as i16);
        assert_eq!((message.sender_id, message.receiver_id), (0, 0));
        assert_eq!(message.r#type, MessageType::MtCommand as i16);
        let content = pb::Command::decode(&*message.content).unwrap();
        assert_eq!(content, command(b"news"));
        assert!(message.to_user_ids.is_empty());
    }
    assert_eq!(counts(&world), [1, 3, 3]);
    for is_persist in [true, false] {
        let nobody = pb::PushToUsersReq {
            is_persist,
            ..push(&[UserId(98), UserId(99)], "")
        };
        let refused = world.messages.push_to_users(nobody).await;
        assert_eq!(code(refused), Some(Code::NoSuchUser));
    }
}

#[tokio::test]
async fn parts_without_a_client_message_id_are_one_message_and_a_retry_is_another() {
    let world = World::new().await;
    let users = world.users(MANY).await;
    let many = MANY as i64;
    let first = world.messages.push_to_users(push(&users, "")).await;
    assert_eq!(counts(&world), [1, many, many]);
    let second = world.messages.push_to_users(push(&users, "")).await;
    assert_eq!(counts(&world), [2, many, 2 * many]);
    assert_ne!(first.unwrap(), second.unwrap());
}

/// I3, for a large job.
#[tokio::test]
async fn push_that_was_cut_off_goes_on_where_it_stopped() {
    let world = World::new().await;
    let users = world.users(MANY).await;
    let last = users[MANY - 1];
    let refuse = format!(
        "CREATE TRIGGER refuse BEFORE INSERT ON timeline_entry WHEN NEW.owner_id = {last} \
         BEGIN SELECT RAISE(ABORT, 'refused on purpose'); END"
    );
    world.foreign_connection().execute_batch(&refuse).unwrap();
    let cut_off = world.messages.push_to_users(push(&users, "job")).await;
    assert_eq!(cut_off.unwrap_err().code(), None);
    let stored = 2 * LARGE_JOB_CHUNK as i64;
    assert_eq!(counts(&world), [1, stored, stored]);

    let drop = "DROP TRIGGER refuse";
    world.foreign_connection().execute_batch(drop).unwrap();
    let mut reversed = users.clone();
    reversed.reverse();
    reversed.push(users[0]);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let again = world.messages.push_to_users(push(&reversed, "job"));
        ids.push(again.await.unwrap());
        assert_eq!(counts(&world), [1, MANY as i64, MANY as i64]);
    }
    assert_eq!(ids[0], ids[1]);
    let sends = &world.sending.metrics.sends;
    let counted = [&sends.ok, &sends.repeated, &sends.failed].map(|count| count.get());
    assert_eq!(counted, [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_with_one_id_at_the_same_time_give_it_to_nobody_twice() {
    let world = World::new().await;
    let users = world.users(MANY).await;
    let pushes = (0..4).map(|_| world.messages.push_to_users(push(&users, "job")));
    let ids: Vec<MessageId> = join_all(pushes)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(counts(&world), [1, MANY as i64, MANY as i64]);
}

#[tokio::test]
async fn id_used_for_other_users_or_another_command_is_refused() {
    let world = World::new().await;
    let users = world.users(3).await;
    let same = push(&users[..2], "job");
    world.messages.push_to_users(same.clone()).await.unwrap();
    let other_command = pb::PushToUsersReq {
        command: Some(command(b"other news")),
        ..same.clone()
    };
    for other in [
        push(&users, "job"),
        push(&users[..1], "job"),
        push(&users[1..], "job"),
        other_command,
    ] {
        let refused = world.messages.push_to_users(other).await.unwrap_err();
        assert!(refused.is(Code::BadRequest));
        assert!(refused.to_string().starts_with("client_message_id"));
    }
    // Nor is it free for an ordinary message of the same sender.
    let sent = pb::SendMessageReq {
        receiver_type: ReceiverType::RtUser as i32,
        receiver_id: users[0].get(),
        message_type: MessageType::MtCommand as i32,
        is_persist: true,
        client_message_id: "job".into(),
        ..Default::default()
    };
    let sent = world.messages.send(AUTHOR, sent).await;
    assert_eq!(code(sent), Some(Code::BadRequest));
    assert_eq!(counts(&world), [1, 2, 2]);
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused_naming_the_field() {
    let world = World::new().await;
    let users = world.users(1).await;
    let good = push(&users, "");
    let with_ids = |user_ids| pb::PushToUsersReq {
        user_ids,
        ..good.clone()
    };
    let with_command = |command| pb::PushToUsersReq {
        command,
        ..good.clone()
    };
    let largest = command(&vec![0; CONTENT_BYTES_MAX - 7]);
    assert_eq!(largest.encoded_len(), CONTENT_BYTES_MAX);
    let too_large = command(&vec![0; CONTENT_BYTES_MAX - 6]);
    let too_long_id = "x".repeat(65);
    for (refused, field) in [
        (with_ids(vec![]), "user_ids"),
        (with_ids(vec![1, 0]), "user_ids"),
        (with_ids(vec![-1, 1]), "user_ids"),
        (with_ids(vec![1; PUSH_USERS_MAX + 1]), "user_ids"),
        (with_command(None), "command"),
        (with_command(Some(too_large.clone())), "command"),
        (push(&users, &too_long_id), "client_message_id"),
    ] {
        let error = world.messages.push_to_users(refused).await.unwrap_err();
        assert!(error.is(Code::BadRequest));
        assert!(error.to_string().starts_with(field), "{error}");
    }
    assert_eq!(counts(&world), [0, 0, 0]);
    for good in [
        with_ids(vec![users[0].get(); PUSH_USERS_MAX]),
        with_command(Some(largest)),
    ] {
        world.messages.push_to_users(good).await.unwrap();
    }

    for refused in [None, Some(too_large)] {
        let command = refused;
        let refused = world.messages.push_to_all(pb::PushToAllReq { command });
        assert_eq!(code(refused), Some(Code::BadRequest));
    }
    let room = pb::PushToRoomReq {
        room_id: 7,
        message_type: MessageType::MtText as i32,
        message_content: Bytes::new(),
    };
    for (refused, field) in [
        (
            pb::PushToRoomReq {
                room_id: 0,
                ..room.clone()
            },
            "room_id",
        ),
        (
            pb::PushToRoomReq {
                message_type: 0,
                ..room.clone()
            },
            "message_type",
        ),
        (
            pb::PushToRoomReq {
                message_content: vec![0; CONTENT_BYTES_MAX + 1].into(),
                ..room
            },
            "message_content",
        ),
    ] {
        let error = world.messages.push_to_room(refused).await.unwrap_err();
        assert!(error.is(Code::BadRequest));
        assert!(error.to_string().starts_with(field), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_persisted_is_heard_and_not_stored() {
    let world = World::new().await;
    let users = world.users(3).await;
    let everyone = Topic::Everyone;
    let room = Topic::Room(RoomId(7));
    let mut listeners = Vec::new();
    for topic in [
        Topic::User(users[0]),
        Topic::User(users[1]),
        Topic::User(users[2]),
        everyone,
        room,
        Topic::Room(RoomId(8)),
    ] {
        listeners.push(Listener::of(&world, topic).await);
    }
    let mut heard = || -> Vec<u32> { listeners.iter_mut().map(Listener::heard).collect() };

    let to_users = pb::PushToUsersReq {
        is_persist: false,
        ..push(&[users[0], UserId(99), users[2], users[2]], "job")
    };
    let id = world.messages.push_to_users(to_users).await.unwrap();
    assert_eq!(id, MessageId(0));
    assert_eq!(heard(), [1, 0, 1, 0, 0, 0]);

    let command = Some(command(b"to all"));
    world
        .messages
        .push_to_all(pb::PushToAllReq { command })
        .unwrap();
    assert_eq!(heard(), [0, 0, 0, 1, 0, 0]);

    let to_room = pb::PushToRoomReq {
        room_id: 7,
        message_type: MessageType::MtText as i32,
        message_content: Bytes::new(),
    };
    world.messages.push_to_room(to_room).await.unwrap();
    assert_eq!(heard(), [0, 0, 0, 0, 1, 0]);
    assert_eq!(counts(&world), [0, 0, 0]);
    assert_eq!(world.sending.metrics.sends.ok.get(), 3);
}

#[tokio::test]
async fn stored_push_is_heard_by_those_who_listen() {
    let world = World::new().await;
    let users = world.users(2).await;
    let mut listener = Listener::of(&world, Topic::User(users[1])).await;
    for _once in 0..2 {
        let pushed = world.messages.push_to_users(push(&users, "job"));
        pushed.await.unwrap();
    }
    assert_eq!(listener.heard(), 1);
}

#[test]
fn later_part_that_finds_no_room_says_that_some_have_it() {
    let full = || Error::business(Code::TooManyRequests, "full");
    assert!(not_all(full()).is(Code::TryAgain));
    assert!(not_all(no_such_user()).is(Code::NoSuchUser));
}
